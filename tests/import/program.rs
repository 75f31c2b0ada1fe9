//! `sd3pipe import` itself.

use crate::place::Place;
use std::process::{Command, Output};

const TRAINING: &str = "python sd3_train.py --pretrained_model_name_or_path models/sd3_medium.safetensors --train_data_dir photos \
    --resolution 512 --max_train_epochs 2 --output_name mine";

fn import(place: &Place, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sd3pipe"));
    let Output { status, stdout, stderr } =
        command.arg("import").args(arguments).current_dir(place.path()).output().expect("it runs");
    (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

fn behind(arguments: &[&'static str]) -> Vec<&'static str> {
    arguments.iter().copied().chain(["--"]).chain(TRAINING.split_whitespace()).collect()
}

#[test]
fn a_command_is_printed_as_a_pipeline() {
    let place = Place::new();
    let (code, text, errors) = import(&place, &behind(&["--as-of", "2024-07", "--processes", "2"]));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    for said in ["name: \"mine\"", "accumulate: 2", "LogitNormal", "path: \"photos\""] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    place.load(&text);
}

#[test]
fn a_file_is_written_once_and_its_paths_lead_where_they_did() {
    let place = Place::new();
    place.write("pipelines/x", "");
    place.write("train.sh", &format!("cd {}\n{TRAINING}\n", place.path().display()));
    let (code, said, _) = import(&place, &["--script", "train.sh", "-o", "pipelines/mine.ron"]);
    assert_eq!((code, said.as_str()), (Some(0), "wrote pipelines/mine.ron\nnext: `sd3pipe plan pipelines/mine.ron`\n"));
    let written = sd3pipe::pipeline::load(&place.path().join("pipelines/mine.ron"), &[]).expect("a pipeline");
    assert!(written.pipeline.model.checkpoint.starts_with(place.path().join("models")));
    let again = ["--script", "train.sh", "-o", "pipelines/mine.ron"];
    let (code, _, said) = import(&place, &again);
    assert!(code == Some(2) && said.contains("--force"), "{said}");
    assert_eq!(import(&place, &[&again[..], &["--force"]].concat()).0, Some(0));
}

#[test]
fn what_the_launcher_leaves_open_is_told() {
    let place = Place::new();
    let launcher = "accelerate launch --mixed_precision=bf16";
    let training = TRAINING.replace("python", launcher);
    let words: Vec<&str> = ["--"].into_iter().chain(training.split_whitespace()).collect();
    let (code, text, notes) = import(&place, &words);
    assert_eq!(code, Some(0), "{notes}");
    assert!(notes.contains("--processes") && notes.contains("--mixed_precision bf16 had no effect"), "{notes}");
    assert!(text.contains("precision: F32"), "{text}");
    let (_, _, notes) = import(&place, &[&["--processes", "4"], &words[..]].concat());
    assert!(!notes.contains("--processes"), "{notes}");
}

#[test]
fn what_is_missing_is_told_after_writing() {
    let place = Place::new();
    let mut arguments = behind(&["-o", "mine.ron"]);
    arguments.extend(["--t5xxl", "models/none.safetensors"]);
    let (code, said, _) = import(&place, &arguments);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("still to do: there is no file or folder `models/none.safetensors`"), "{said}");
}

#[test]
fn all_that_is_refused_is_told_and_nothing_written() {
    let place = Place::new();
    let mut arguments = behind(&["-o", "mine.ron"]);
    arguments.extend(["--color_aug", "--optimizer_type", "SGDNesterov", "--train_text_encoder"]);
    let (code, _, said) = import(&place, &arguments);
    assert_eq!(code, Some(2));
    for option in ["--color_aug: ", "--optimizer_type SGDNesterov: ", "--train_text_encoder: "] {
        assert!(said.contains(option), "{option}\n{said}");
    }
    assert!(!place.path().join("mine.ron").exists());
    let (code, _, said) = import(&place, &["--as-of", "July", "--", "sd3_train.py"]);
    assert!(code == Some(2) && said.contains("2024-07"), "{said}");
}
