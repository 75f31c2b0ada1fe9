//! What each edit reruns: the table that the program stands for. The plan before says the same, and the results are those of a run
//! from an empty store, to the byte.

use crate::space::TestSpace;
use std::collections::BTreeMap;

const EPOCHS: [&str; 2] = ["epoch 1", "epoch 2"];
const IMAGES: [&str; 3] = ["base, prompt 1, seed 1", "epoch 1, prompt 1, seed 1", "epoch 2, prompt 1, seed 1"];

type Actions = BTreeMap<String, Vec<String>>;

fn actions(stages: &[(&str, &[&str])]) -> Actions {
    stages.iter().map(|(stage, actions)| ((*stage).to_owned(), sorted(actions))).collect()
}

fn sorted(actions: &[&str]) -> Vec<String> {
    let mut actions: Vec<String> = actions.iter().map(|action| (*action).to_owned()).collect();
    actions.sort();
    actions
}

/// The stages below the latents and the texts, all anew. The base model's image stays: its weights are the same.
fn all_below() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("train", &EPOCHS),
        ("export", &EPOCHS),
        ("sample", &["epoch 1, prompt 1, seed 1", "epoch 2, prompt 1, seed 1", "contact sheet"]),
    ]
}

/// Makes an edit after a first run and compares what is planned, what is carried out, and what comes out of an empty store. `why` names
/// the cause for every stage that will run.
fn after(edit: impl Fn(&TestSpace), arguments: &[&str], expected: &[(&str, &[&str])], cause: &str) -> TestSpace {
    let space = TestSpace::demo();
    space.run().succeeds();
    edit(&space);
    let planned = space.planned(arguments);
    for stage in planned.keys() {
        space.call(&[&["why", "test.ron", stage.as_str()], arguments].concat()).succeeds().says(cause);
    }
    space.run_with(arguments).succeeds();
    let executed = space.executed();
    assert_eq!(executed, actions(expected));
    assert_eq!(planned.keys().collect::<Vec<_>>(), executed.keys().collect::<Vec<_>>(), "the plan said something else");
    for (stage, missing) in planned.iter().filter(|(_, missing)| !missing.is_empty()) {
        assert_eq!(missing, &executed[stage], "the plan of {stage}");
    }
    let incremental = space.files("out");
    std::fs::remove_dir_all(space.path("out")).unwrap();
    space.run_with(&[arguments, &["--store", "empty-store"]].concat()).succeeds();
    for (path, bytes) in space.files("out") {
        assert!(incremental.get(&path) == Some(&bytes), "{} differs from a run from an empty store", path.display());
    }
    space
}

fn below(first: &[(&'static str, &'static [&'static str])]) -> Vec<(&'static str, &'static [&'static str])> {
    [first, &all_below()].concat()
}

#[test]
fn one_caption_changed() {
    let edit = |space: &TestSpace| space.write("photos/wall-clock.txt", "a green clock on a wall\n");
    let space = after(edit, &[], &below(&[("text", &["wall-clock.jpg"])]), "caption of wall-clock.jpg changed");
    space.write("photos/wall-clock.txt", "a blue clock on a wall\n");
    space
        .call(&["why", "test.ron", "train"])
        .succeeds()
        .says("caption of wall-clock.jpg changed")
        .says("- a green clock on a wall")
        .says("+ a blue clock on a wall");
}

#[test]
fn a_trailing_space_reruns_nothing() {
    let edit = |space: &TestSpace| {
        let caption = space.read("photos/wall-clock.txt");
        space.write("photos/wall-clock.txt", [caption.trim_ascii(), b"  \n"].concat());
    };
    after(edit, &[], &[], "");
}

#[test]
fn an_image_replaced() {
    let edit = |space: &TestSpace| {
        let cat = space.path("photos/tabby-cat-face.jpg");
        image::open(&cat).unwrap().fliph().save(&cat).unwrap();
    };
    let space = after(edit, &[], &below(&[("latents", &["tabby-cat-face.jpg"])]), "image tabby-cat-face.jpg changed");
    space.call(&["why", "test.ron", "sample"]).succeeds().says("sample is up to date");
}

#[test]
fn an_image_renamed() {
    let edit = |space: &TestSpace| {
        space.rename("photos/tabby-cat-face.jpg", "photos/zebra.jpg");
        space.rename("photos/tabby-cat-face.txt", "photos/zebra.txt");
    };
    // Nothing is encoded again, but an item is known by its path: its noise is another.
    after(edit, &[], &below(&[]), "tabby-cat-face.jpg was renamed to zebra.jpg");
}

#[test]
fn an_image_added() {
    let edit = |space: &TestSpace| {
        image::RgbImage::from_fn(90, 60, |x, y| image::Rgb([x as u8, y as u8, 128]))
            .save(space.path("photos/gradient.png"))
            .unwrap();
        space.write("photos/gradient.txt", "a gradient");
    };
    after(edit, &[], &below(&[("text", &["gradient.png"]), ("latents", &["gradient.png"])]), "gradient.png was added");
}

#[test]
fn an_image_removed() {
    let edit = |space: &TestSpace| {
        space.remove("photos/wall-clock.jpg");
        space.remove("photos/wall-clock.txt");
    };
    after(edit, &[], &below(&[]), "wall-clock.jpg was removed");
}

#[test]
fn the_contents_of_two_images_swapped() {
    let edit = |space: &TestSpace| {
        space.rename("photos/wall-clock.jpg", "photos/swap");
        space.rename("photos/tabby-cat-face.jpg", "photos/wall-clock.jpg");
        space.rename("photos/swap", "photos/tabby-cat-face.jpg");
    };
    after(edit, &[], &below(&[]), "image tabby-cat-face.jpg changed");
}

#[test]
fn another_learning_rate() {
    let space = after(|_| {}, &["--set", "train.learning_rate=5e-5"], &below(&[]), "learning_rate 0.001 → 0.00005");
    space
        .call(&["why", "test.ron", "train", "--set", "train.learning_rate=2e-5"])
        .succeeds()
        .says("learning_rate 0.00005 → 0.00002");
}

#[test]
fn an_epoch_more_under_a_constant_schedule_trains_one() {
    let expected: &[(&str, &[&str])] = &[
        ("train", &["epoch 3"]),
        ("export", &["epoch 3"]),
        ("sample", &["epoch 3, prompt 1, seed 1", "contact sheet"]),
    ];
    after(|space| space.edit("test.ron", "epochs: 2", "epochs: 3"), &[], expected, "epochs 2 → 3");
}

#[test]
fn an_epoch_less_trains_none() {
    after(
        |space| space.edit("test.ron", "epochs: 2", "epochs: 1"),
        &[],
        &[("sample", &["contact sheet"])],
        "epochs 2 → 1",
    );
}

#[test]
fn another_sampling_prompt() {
    let expected: &[&str] = &[IMAGES[0], IMAGES[1], IMAGES[2], "contact sheet"];
    after(
        |space| space.edit("test.ron", "a cat", "a clock"),
        &[],
        &[("sample", expected)],
        "prompts[0] a cat → a clock",
    );
}

#[test]
fn another_export_precision() {
    let expected: &[(&str, &[&str])] = &[("export", &EPOCHS), ("sample", &[IMAGES[1], IMAGES[2], "contact sheet"])];
    after(|space| space.edit("test.ron", "Export()", "Export(precision: F32)"), &[], expected, "precision F16 → F32");
}

#[test]
fn a_weight_of_the_vae_encoder_changed() {
    let latents: Vec<&str> = crate::space::PHOTOS.to_vec();
    let expected: Vec<(&str, &[&str])> = vec![
        ("latents", &latents),
        ("train", &EPOCHS),
        ("export", &EPOCHS),
        ("sample", &[IMAGES[1], IMAGES[2], "contact sheet"]),
    ];
    after(
        |space| space.change_tensor("model/sd3_tiny.safetensors", "first_stage_model.encoder.conv_out.bias"),
        &[],
        &expected,
        "vae_encoder of the model changed",
    );
}

#[test]
fn a_weight_of_the_vae_decoder_changed_trains_nothing() {
    let expected: &[(&str, &[&str])] =
        &[("export", &EPOCHS), ("sample", &[IMAGES[0], IMAGES[1], IMAGES[2], "contact sheet"])];
    after(
        |space| space.change_tensor("model/sd3_tiny.safetensors", "first_stage_model.decoder.conv_in.bias"),
        &[],
        expected,
        "vae_decoder of the model changed",
    );
}

#[test]
fn a_model_file_saved_again_with_equal_tensors_reruns_nothing() {
    let edit = |space: &TestSpace| {
        let bytes = space.read("model/sd3_tiny.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let note = [("note".to_owned(), "saved again".to_owned())].into();
        let again = safetensors::serialize(tensors.tensors(), Some(note)).unwrap();
        assert_ne!(again, bytes);
        space.remove("model/sd3_tiny.safetensors");
        space.write("model/renamed.safetensors", again);
        space.edit("test.ron", "model/sd3_tiny.safetensors", "model/renamed.safetensors");
    };
    after(edit, &[], &[], "");
}

#[test]
fn any_edit_undone_is_a_hit() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let first = space.files("out");
    let caption = space.read("photos/wall-clock.txt");
    space.write("photos/wall-clock.txt", "a lamp");
    space.run_with(&["--set", "train.epochs=1"]).succeeds();
    assert_ne!(space.files("out"), first);
    space.write("photos/wall-clock.txt", caption);
    assert!(space.planned(&[]).is_empty());
    space.run().succeeds().says("nothing to do");
    assert_eq!(space.files("out"), first, "what lies in out/ is the first run's again");
}
