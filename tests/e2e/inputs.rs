//! Wrong input: each fault is named with its file and its remedy, and nothing wrong is kept.

use crate::space::TestSpace;

#[test]
fn a_truncated_image_is_named_and_the_others_are_kept() {
    let space = TestSpace::demo();
    let photo = space.read("photos/wall-clock.jpg");
    space.write("photos/wall-clock.jpg", &photo[..photo.len() / 2]);
    space.run().fails(1, &["wall-clock.jpg"]);
    space.write("photos/wall-clock.jpg", photo);
    space.run().succeeds();
}

/// Damage that no header shows is found when the image is decoded: the others are encoded all the same.
#[test]
fn an_image_that_breaks_in_decoding_leaves_the_others_encoded() {
    let space = TestSpace::demo();
    let mut png = space.read("photos/coffee-cup.png");
    let middle = png.len() / 2;
    png[middle..middle + 64].fill(0xff);
    let sound = space.read("photos/coffee-cup.png");
    space.write("photos/coffee-cup.png", png);
    space.run().fails(1, &["1 of the images can't be used", "coffee-cup.png"]);
    space.write("photos/coffee-cup.png", sound);
    space.run_with(&["--until", "latents"]).succeeds();
    assert_eq!(space.executed()["latents"], ["coffee-cup.png"]);
}

#[test]
fn every_caption_that_is_missing_or_no_utf8_is_listed_at_once() {
    let space = TestSpace::demo();
    space.remove("photos/wall-clock.txt");
    space.remove("photos/coffee-cup.txt");
    space.write("photos/mountain-path.txt", b"a path \xff\xfe");
    space.run().fails(1, &["wall-clock.jpg", "coffee-cup.png", "mountain-path.txt", "UTF-8", "missing: Empty"]);
    space.write("photos/mountain-path.txt", "a path");
    space.edit("test.ron", "[(path: \"photos\")]", "[(path: \"photos\")], missing: Empty");
    space.run_with(&["--until", "text"]).succeeds();
}

#[test]
fn an_empty_data_set_is_an_error() {
    let space = TestSpace::demo();
    std::fs::remove_dir_all(space.path("photos")).unwrap();
    std::fs::create_dir(space.path("photos")).unwrap();
    space.run().fails(1, &["photos"]);
}

#[test]
fn a_truncated_model_file_is_an_error() {
    let space = TestSpace::demo();
    let model = space.read("model/sd3_tiny.safetensors");
    space.write("model/sd3_tiny.safetensors", &model[..model.len() - 10]);
    space.run().fails(1, &["sd3_tiny.safetensors", "cut short"]);
}

#[test]
fn a_model_header_that_lies_is_an_error() {
    let space = TestSpace::demo();
    let model = space.read("model/clip_l.safetensors");
    for length in [u64::MAX, 1 << 40, 4] {
        let mut lying = model.clone();
        lying[..8].copy_from_slice(&length.to_le_bytes());
        space.write("model/clip_l.safetensors", lying);
        space.run().fails(1, &["clip_l.safetensors"]);
    }
    space.write("model/clip_l.safetensors", "not a model at all");
    space.run().fails(1, &["clip_l.safetensors"]);
}

#[test]
fn tensors_that_are_missing_or_of_the_wrong_shape_are_all_listed() {
    let space = TestSpace::demo();
    let bytes = space.read("model/sd3_tiny.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let missing = "model.diffusion_model.context_embedder.bias";
    let bent = "model.diffusion_model.t_embedder.mlp.0.bias";
    let tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .filter(|(name, _)| name != missing)
        .map(|(name, view)| {
            let shape = if name == bent { vec![1, view.shape()[0]] } else { view.shape().to_vec() };
            let view = safetensors::tensor::TensorView::new(view.dtype(), shape, view.data()).unwrap();
            (name, view)
        })
        .collect();
    space.write("model/sd3_tiny.safetensors", safetensors::serialize(tensors, None).unwrap());
    space.run().fails(1, &["context_embedder.bias", "t_embedder.mlp.0.bias"]);
}

#[test]
fn a_model_without_any_text_encoder_is_refused_before_it_trains_on_zeros() {
    let space = TestSpace::demo();
    for encoder in [
        "clip_l: \"model/clip_l.safetensors\",",
        "clip_g: \"model/clip_g.safetensors\",",
        "t5xxl: \"model/t5xxl.safetensors\",",
    ] {
        space.edit("test.ron", encoder, "");
    }
    space.run().fails(1, &["has no text encoders inside", "clip_l"]);
    space.edit("test.ron", "tokenizers:", "clip_g: \"model/clip_g.safetensors\", tokenizers:");
    let said = space.run().succeeds().stderr;
    assert!(said.contains("the model has no CLIP-L: zeros stand in its place"), "{said}");
}

#[test]
fn sizes_that_the_model_can_not_take_are_said_before_anything_is_made() {
    let space = TestSpace::demo();
    space.run_with(&["--set", "latents.resolution=1024"]).fails(1, &["would be trained at", "lower `resolution`"]);
    space.run_with(&["--set", "sample.size=(1024, 64)"]).fails(1, &["samples of 1024 × 64", "change `size`"]);
    assert!(space.executed().is_empty());
}

#[test]
fn a_store_that_cannot_be_written_says_where_else_it_may_go() {
    let space = TestSpace::demo();
    space.write("not-a-folder", "a file");
    space.run_with(&["--store", "not-a-folder/store"]).fails(3, &["not-a-folder", "--store"]);
    space.run_with(&["--store", "photos"]).fails(3, &["is not a store"]);
}

#[test]
fn nothing_is_ever_written_into_the_data() {
    let space = TestSpace::demo();
    let (photos, model) = (space.files("photos"), space.files("model"));
    space.run().succeeds();
    assert_eq!((space.files("photos"), space.files("model")), (photos, model));
}

/// Promise 6, with the program: the stat cache is not fooled by a same-size edit whose time is put back.
#[test]
fn a_same_size_edit_with_its_time_put_back_is_noticed() {
    let space = TestSpace::demo();
    space.run().succeeds();
    let path = space.path("photos/wall-clock.txt");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut caption = space.read("photos/wall-clock.txt");
    caption[0] ^= 1;
    space.write("photos/wall-clock.txt", caption);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(space.planned(&[])["text"], ["wall-clock.jpg"]);
}
