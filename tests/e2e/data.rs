//! Several data sets, weights, regularisation images, masks, mirrored images, sizes and captions' variants, through the whole program.

use crate::space::TestSpace;
use image::{GrayImage, Luma};
use sd3pipe_cache::{Digest, Store};
use sd3pipe_stages::action::{Artifact, Entry};

/// What a stage made at the last run.
fn artifact(space: &TestSpace, stage: &str) -> Vec<Entry> {
    let store = store(space);
    let run = store.last_run("test").expect("a journal").expect("a run");
    let stages = run.document["stages"].as_array().expect("stages");
    let found = stages.iter().find(|found| found["name"] == stage).expect("a stage");
    let result = found["result"].as_str().expect("a result").parse().expect("a digest");
    Artifact::from_bytes(&store.read(&result).expect("an object")).expect("an artifact").entries
}

fn store(space: &TestSpace) -> Store {
    Store::open_read_only(&space.path(".sd3pipe")).expect("a store").expect("a store")
}

fn of(space: &TestSpace, stage: &str, role: &str) -> Vec<(String, Digest)> {
    let entries = artifact(space, stage).into_iter().filter(|entry| entry.role == role);
    entries.map(|entry| (entry.item, entry.digest)).collect()
}

/// The loss of every step.
fn losses(space: &TestSpace) -> Vec<f64> {
    let store = store(space);
    let epochs = of(space, "train", "losses").into_iter().map(|(_, digest)| store.read(&digest).expect("an object"));
    let steps = epochs.flat_map(|epoch| serde_json::from_slice::<Vec<serde_json::Value>>(&epoch).expect("a list"));
    steps.map(|step| step["loss"].as_f64().expect("a number")).collect()
}

/// Three small pictures and this data, trained one at a time at a learning rate of 0, so that each step's loss is that of the model as
/// it is; with more settings.
fn trained(data: &str, settings: &[&str]) -> TestSpace {
    let space = TestSpace::small();
    run(&space, data, settings);
    space
}

fn run(space: &TestSpace, data: &str, settings: &[&str]) {
    let data = format!("captions.data={data}");
    let mut all = vec!["train.learning_rate=0.0", "train.batch=1", &data];
    all.extend(settings);
    let all: Vec<&str> = all.into_iter().flat_map(|setting| ["--set", setting]).collect();
    space.run_with(&[&["--until", "train"][..], &all].concat()).succeeds();
}

const PHOTOS: &str = "[(path: \"photos\")]";

fn mask(space: &TestSpace, name: &str, (width, height): (u32, u32), white: impl Fn(u32, u32) -> bool) {
    std::fs::create_dir_all(space.path(name).parent().unwrap()).unwrap();
    let pixel = |x, y| Luma([if white(x, y) { 255 } else { 0 }]);
    GrayImage::from_fn(width, height, pixel).save(space.path(name)).unwrap();
}

#[test]
fn several_data_sets_train_together_and_weights_rerun_training_only() {
    let space = TestSpace::small();
    for (number, name) in ["fig", "elm"].into_iter().enumerate() {
        space.picture(&format!("class/{name}.png"), (64, 96), 7 + number as u8);
        space.write(&format!("class/{name}.txt"), "a thing");
    }
    let data = |first: &str, second: &str| {
        format!(
            "captions.data=[(path: \"photos\", repeats: 2{first}), (path: \"class\", name: \"class\", regularisation: true{second})]"
        )
    };
    let plain = data("", "");
    let said = space.run_with(&["--set", &plain, "--until", "export"]).succeeds().stderr;
    for line in ["images          5", "an epoch        8 images", "regularisation  2 of the images, 2 of an epoch"] {
        assert!(said.contains(line), "not said: {line}\n{said}");
    }
    let latents: Vec<String> = of(&space, "latents", "latents").into_iter().map(|(item, _)| item).collect();
    assert_eq!(latents, ["class/elm.png", "class/fig.png", "fig.png", "hut.png", "owl.png"]);

    let nothing: &[&str] = &[];
    let first: &[&str] = &["epoch 1"];
    for setting in [data(", weight: 0.5", ""), data("", ", weight: 2.0")] {
        let planned = space.planned(&["--set", &setting, "--until", "train"]);
        let of = |stage: &str| planned.get(stage).cloned().unwrap_or_default();
        assert_eq!((of("text"), of("latents"), of("train")), (vec![], vec![], vec!["epoch 1".to_owned()]), "{setting}");
        space.call(&["why", "test.ron", "train", "--set", &setting]).succeeds().says("weight of ");
    }
    // The weight of the training acts through the images that it is for.
    for (setting, expected) in [("train.prior_loss_weight=0.5", first), ("train.prior_loss_weight=1.0", nothing)] {
        let planned = space.planned(&["--set", &plain, "--set", setting, "--until", "train"]);
        assert_eq!(planned.get("train").cloned().unwrap_or_default(), expected, "{setting}");
    }
    space
        .run_with(&["--set", "train.prior_loss_weight=0.5"])
        .fails(2, &["`prior_loss_weight` has no effect without regularisation images", "regularisation: true"]);
}

#[test]
fn each_image_counts_its_weight_in_the_loss() {
    let plain = losses(&trained(PHOTOS, &[]));
    assert_eq!(plain.len(), 3);
    let half = losses(&trained("[(path: \"photos\", weight: 0.5)]", &[]));
    assert_eq!(half, plain.iter().map(|loss| loss / 2.0).collect::<Vec<_>>());

    // One of the three is of the class: two folders, with the names that the items have in one.
    let space = TestSpace::small();
    std::fs::create_dir_all(space.path("class")).unwrap();
    ["owl.png", "owl.txt"].iter().for_each(|file| space.rename(&format!("photos/{file}"), &format!("class/{file}")));
    let data = "[(path: \"photos\"), (path: \"class\", regularisation: true)]";
    run(&space, data, &[]);
    assert_eq!(losses(&space), plain);
    run(&space, data, &["train.prior_loss_weight=0.25"]);
    let mut ratios: Vec<f64> = losses(&space).iter().zip(&plain).map(|(loss, plain)| loss / plain).collect();
    ratios.sort_by(f64::total_cmp);
    assert_eq!(ratios, [0.25, 1.0, 1.0]);

    // In one batch each counts for itself: as the mean of what each is alone.
    let of = |data: &str| {
        let space = TestSpace::small();
        space.remove("photos/hut.png");
        space.remove("photos/hut.txt");
        run(&space, data, &["train.batch=2"]);
        losses(&space)
    };
    let alone = of(PHOTOS);
    let heavy = of("[(path: \"photos\", weight: 4.0)]");
    assert_eq!(heavy, alone.iter().map(|loss| loss * 4.0).collect::<Vec<_>>());
}

#[test]
fn a_mask_that_masks_nothing_changes_no_bit_and_halves_add_up_to_the_whole() {
    let data = "[(path: \"photos\", masks: Folder(\"masks\"))]";
    let sizes = [("fig", (96, 64)), ("hut", (80, 64)), ("owl", (96, 64))];
    let masked = |white: fn(u32, u32, u32) -> bool| {
        let space = TestSpace::small();
        for (name, (width, height)) in sizes {
            mask(&space, &format!("masks/{name}.png"), (width * 2, height * 2), |x, y| white(x, y, width * 2));
        }
        space
    };
    let plain = trained(PHOTOS, &["train.learning_rate=1e-3"]);
    let full = masked(|_, _, _| true);
    run(&full, data, &["train.learning_rate=1e-3"]);
    assert_eq!(of(&full, "train", "weights"), of(&plain, "train", "weights"));
    assert_eq!(losses(&full), losses(&plain));

    let (left, right) = (masked(|x, _, width| x < width / 2), masked(|x, _, width| x >= width / 2));
    [&left, &right].iter().for_each(|space| run(space, data, &[]));
    let plain = losses(&trained(PHOTOS, &[]));
    for ((left, right), plain) in losses(&left).into_iter().zip(losses(&right)).zip(plain) {
        // Each half counts as much as a whole picture.
        assert!(((left + right) / 2.0 / plain - 1.0).abs() < 1e-5, "{left} and {right} of {plain}");
        assert!((left / right - 1.0).abs() > 1e-4, "both halves have the same loss");
    }

    // Another mask is read again and nothing else, and training follows.
    mask(&left, "masks/hut.png", (40, 32), |x, _| x < 15);
    let arguments = ["--set", &format!("captions.data={data}"), "--until", "train"];
    let planned = left.planned(&arguments);
    assert_eq!(planned["latents"], ["mask of hut.png"]);
    left.call(&[&["why", "test.ron", "train"][..], &arguments[..2]].concat())
        .succeeds()
        .says("mask of hut.png changed");
}

#[test]
fn transparent_parts_are_not_learnt_and_move_no_latents() {
    let space = TestSpace::small();
    let transparent = |x: u32, _: u32| image::Rgba([200, (x * 2) as u8, 10, if x < 48 { 0 } else { 255 }]);
    image::RgbaImage::from_fn(96, 64, transparent).save(space.path("photos/fig.png")).unwrap();
    run(&space, PHOTOS, &[]);
    let plain = losses(&space);
    run(&space, "[(path: \"photos\", masks: Alpha)]", &[]);
    assert_eq!(space.executed()["latents"], ["mask of fig.png", "mask of hut.png", "mask of owl.png"]);
    let changed = losses(&space).iter().zip(&plain).filter(|(masked, plain)| masked != plain).count();
    assert_eq!(changed, 1, "only one of the images has an alpha channel");
}

#[test]
fn masks_that_can_not_be_meant_are_named_with_a_remedy() {
    let space = TestSpace::small();
    let run = |said: &[&str], code| {
        let setting = "captions.data=[(path: \"photos\", masks: Folder(\"photos/masks\"))]";
        space.run_with(&["--set", setting, "--until", "latents"]).fails(code, said);
    };
    run(&["there is no folder `photos/masks`"], 2);
    mask(&space, "photos/masks/fig.png", (96, 64), |_, _| true);
    mask(&space, "photos/masks/hut.png", (64, 64), |_, _| true);
    run(&["owl.png: has no mask of its name in", "hint: put a mask there", "hut.png: is 64 × 64 pixels"], 1);
    mask(&space, "photos/masks/hut.png", (40, 32), |_, _| true);
    mask(&space, "photos/masks/owl.png", (96, 64), |_, _| false);
    run(&["owl.png: masks everything"], 1);
    mask(&space, "photos/masks/owl.png", (96, 64), |x, _| x > 10);
    let setting = "captions.data=[(path: \"photos\", masks: Folder(\"photos/masks\"))]";
    space.run_with(&["--set", setting, "--until", "train"]).succeeds();
    assert_eq!(space.executed()["latents"], ["mask of owl.png"], "what was right had been kept");
}

#[test]
fn a_flipped_picture_is_encoded_as_its_mirrored_file_and_training_takes_one_of_the_two() {
    let flip = "[(path: \"photos\", repeats: 8, flip: true)]";
    let space = trained("[(path: \"photos\", repeats: 8)]", &[]);
    let (plain, latents) = (losses(&space), of(&space, "latents", "latents"));
    let planned = space.planned(&["--set", &format!("captions.data={flip}"), "--until", "latents"]);
    assert_eq!(planned["latents"], ["fig.png, flipped", "hut.png, flipped", "owl.png, flipped"]);
    run(&space, flip, &[]);
    assert_eq!(of(&space, "latents", "latents"), latents);
    let flipped = of(&space, "latents", "flipped");
    let taken = losses(&space).iter().zip(&plain).filter(|(flipped, plain)| flipped != plain).count();
    assert!((6..=18).contains(&taken), "{taken} of 24 samples are mirrored");

    let mirrored = TestSpace::small();
    for name in ["fig", "hut", "owl"] {
        let path = mirrored.path(&format!("photos/{name}.png"));
        image::imageops::flip_horizontal(&image::open(&path).unwrap().to_rgb8()).save(&path).unwrap();
    }
    run(&mirrored, PHOTOS, &[]);
    assert_eq!(of(&mirrored, "latents", "latents"), flipped);
    assert_ne!(latents, flipped);
}

/// A mask is mirrored with its picture: a picture that is the same on both sides, of which one half is learnt.
#[test]
fn a_mask_is_mirrored_with_its_picture() {
    let space = TestSpace::small();
    for name in ["fig", "hut", "owl"] {
        mask(&space, &format!("masks/{name}.png"), (96, 64), |x, _| x < 48);
    }
    space.picture("photos/hut.png", (96, 64), 3);
    run(&space, "[(path: \"photos\", flip: true, masks: Folder(\"masks\"))]", &[]);
    let (plain, flipped) = (of(&space, "latents", "mask"), of(&space, "latents", "flipped_mask"));
    let cells = |digest: &Digest| {
        let bytes = store(&space).read(digest).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mask = file.tensor("mask").unwrap();
        let cells: Vec<f32> = mask.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (mask.shape().to_vec(), cells)
    };
    for ((item, plain), (_, flipped)) in plain.iter().zip(&flipped) {
        let ((shape, plain), (_, flipped)) = (cells(plain), cells(flipped));
        assert_eq!(shape, [6, 10], "{item}");
        assert!(plain.chunks(10).all(|row| row == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), "{plain:?}");
        assert!(flipped.chunks(10).all(|row| row == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]), "{flipped:?}");
    }
}

#[test]
fn images_are_trained_at_several_sizes() {
    let space = trained(PHOTOS, &[]);
    let settings = ["--set", "latents.further_resolutions=[96]", "--until", "latents"];
    assert_eq!(
        space.planned(&settings)["latents"],
        ["fig.png", "hut.png", "owl.png"],
        "those at the first size are kept"
    );
    run(&space, PHOTOS, &["latents.further_resolutions=[96]"]);
    assert_eq!(losses(&space).len(), 6);
    let mut sizes: Vec<_> =
        artifact(&space, "latents").into_iter().map(|entry| (entry.item, entry.size.unwrap())).collect();
    sizes.sort_unstable();
    let expected = [("fig.png", (80, 48)), ("fig.png", (112, 80)), ("hut.png", (64, 64))]
        .map(|(item, size)| (item.to_owned(), size));
    assert_eq!(sizes.len(), 6);
    assert_eq!(sizes[..3], expected);
    space
        .run_with(&["--set", "latents.further_resolutions=[64]"])
        .fails(2, &["`further_resolutions[0]`: 64 × 64 is there twice"]);
}

/// The texts that stand in the documentation of the fields, made by hand.
#[test]
fn captions_become_the_texts_that_their_rules_say() {
    let space = TestSpace::small();
    space.write("photos/fig.txt", "a {red|blue} fig\n\na bowl\n");
    space.write("photos/hut.txt", "a [trigger] hut, {{old}}");
    space.write("photos/owl.txt", "sks, owl ||| park;;sun, moon ||| best");
    let made = |settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        space.run_with(&[&["--until", "text"][..], &settings].concat()).succeeds();
        let mut texts: Vec<String> = of(&space, "text", "text").into_iter().map(|(text, _)| text).collect();
        texts.sort_unstable();
        texts
    };
    let data = "captions.data=[(path: \"photos\", trigger: \"sks\", prefix: \"photo of\")]";
    let texts =
        made(&[data, "captions.lines=All", "captions.wildcards=(variants: 4)", "captions.suffix=\"at {dawn|dusk}\""]);
    let expected = [
        "",
        "photo of a sks hut, {old} at dawn",
        "photo of a sks hut, {old} at dusk",
        "photo of sks, a blue fig at dawn",
        "photo of sks, a blue fig at dusk",
        "photo of sks, a bowl at dawn",
        "photo of sks, a bowl at dusk",
        "photo of sks, a red fig at dawn",
        "photo of sks, a red fig at dusk",
        "photo of sks, owl ||| park;;sun, moon ||| best at dawn",
        "photo of sks, owl ||| park;;sun, moon ||| best at dusk",
    ];
    assert_eq!(texts, expected);

    let shuffle =
        "captions.shuffle=(variants: 30, keep_tokens: 9, keep_tokens_separator: \"|||\", secondary_separator: \";;\")";
    let expected = [
        "",
        "a [trigger] hut, {{old}}",
        "a {red|blue} fig",
        "sks, owl, moon, park, sun, best",
        "sks, owl, park, sun, moon, best",
    ];
    assert_eq!(made(&[shuffle]), expected);

    let dropping = "captions.shuffle=(variants: 60, keep_tokens: 1, keep_tokens_separator: \"|||\", tag_dropout: 0.5, reorder: false)";
    let expected = [
        "",
        "a [trigger] hut",
        "a [trigger] hut, {{old}}",
        "a {red|blue} fig",
        "sks, owl, best",
        "sks, owl, moon, best",
        "sks, owl, park;;sun, best",
        "sks, owl, park;;sun, moon, best",
    ];
    assert_eq!(made(&[dropping]), expected);
}
