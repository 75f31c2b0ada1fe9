//! Models by their address at Hugging Face, from a server that this test runs.

#[path = "../program/mod.rs"]
mod program;
mod server;

use program::{Outcome, program, repository};
use server::{COMMIT, Server, TOKEN};
use sha2::{Digest, Sha256};
use std::{fs, path::PathBuf, process::Command};
use tempfile::TempDir;

const MODEL: [&str; 6] = [
    "sd3_tiny.safetensors",
    "clip_l.safetensors",
    "clip_g.safetensors",
    "t5xxl.safetensors",
    "clip_tokenizer.json",
    "t5_tokenizer.json",
];

const PIPELINE: &str = r#"Pipeline(
    name: "test",
    model: (
        checkpoint: "MODEL/sd3_tiny.safetensors",
        clip_l: "MODEL/clip_l.safetensors",
        clip_g: "MODEL/clip_g.safetensors",
        t5xxl: "MODEL/t5xxl.safetensors",
        tokenizers: (clip: "MODEL/clip_tokenizer.json", t5: "MODEL/t5_tokenizer.json"),
    ),
    device: Cpu,
    stages: {
        "captions": Captions(data: [(path: "photos")]),
        "text": EncodeText(t5_tokens: 16, precision: F32),
    },
)
"#;

fn model(name: &str) -> Vec<u8> {
    fs::read(repository().join("tests/model").join(name)).expect("the tests' model")
}

/// A folder with a pipeline, a cache, and a server to fill it from.
struct Lab {
    folder: TempDir,
    server: Server,
}

impl Lab {
    fn new() -> Self {
        Self::with("MODEL/", "hf://lab/tiny/")
    }

    /// One in whose pipeline something is written in the place of something.
    fn with(old: &str, new: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("photos")).expect("a folder of photos");
        for name in ["wall-clock.jpg", "wall-clock.txt"] {
            fs::copy(repository().join("tests/photos").join(name), folder.path().join("photos").join(name))
                .expect("a photo");
        }
        fs::write(folder.path().join("test.ron"), PIPELINE.replace(old, new)).expect("a pipeline");
        Self { folder, server: Server::with(MODEL.map(|name| (name, model(name)))) }
    }

    /// The repository's folder in the cache.
    fn cached(&self) -> PathBuf {
        self.folder.path().join("hf/hub/models--lab--tiny")
    }

    fn blob(&self) -> PathBuf {
        self.cached().join("blobs").join(format!("{:x}", Sha256::digest(model(MODEL[0]))))
    }

    fn call(&self, arguments: &[&str]) -> Outcome {
        self.call_with(arguments, &[])
    }

    fn call_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let mut command = Command::new(program());
        let unset = [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HF_HUB_ETAG_TIMEOUT",
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "SD3PIPE_STORE",
            "http_proxy",
            "HTTP_PROXY",
            "ALL_PROXY",
        ];
        for name in unset {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.folder.path().join("hf")).env("HF_ENDPOINT", &self.server.url);
        command.args(arguments).envs(variables.iter().copied()).current_dir(self.folder.path());
        Outcome::of(command.output().expect("the program"))
    }
}

#[test]
fn a_plan_says_what_would_be_downloaded_and_downloads_nothing() {
    let lab = Lab::new();
    lab.call(&["plan", "test.ron"])
        .succeeds()
        .says("model.checkpoint")
        .says("download   hf://lab/tiny/sd3_tiny.safetensors   1.6 MiB")
        .says("`sd3pipe run` downloads these first");
    let json = lab.call(&["plan", "--json", "test.ron"]).succeeds().json();
    assert_eq!(json["downloads"][0]["bytes"], model(MODEL[0]).len());
    assert!(!lab.folder.path().join("hf").exists() && lab.server.state().transfers().is_empty());
    lab.call(&["why", "test.ron", "text"]).fails(2, &["is not downloaded yet", "sd3pipe fetch"]);
    lab.call_with(&["plan", "test.ron"], &[("HF_HUB_OFFLINE", "1")]).succeeds().says("HF_HUB_OFFLINE is set");
}

#[test]
fn what_is_downloaded_lies_where_others_find_it_and_is_the_same_model_as_by_a_path() {
    let lab = Lab::new();
    lab.call(&["fetch", "test.ron"]).succeeds().says("hit   hf://lab/tiny/t5_tokenizer.json");
    let pointer = lab.cached().join("snapshots").join(COMMIT).join(MODEL[0]);
    assert_eq!(fs::canonicalize(&pointer).unwrap(), fs::canonicalize(lab.blob()).unwrap());
    assert_eq!(fs::read(&pointer).unwrap(), model(MODEL[0]));
    assert_eq!(fs::read_to_string(lab.cached().join("refs/main")).unwrap(), COMMIT);
    let asked = lab.server.state().log.len();
    let key = lab.call(&["why", "test.ron", "text"]).succeeds().stdout;
    let plain = Lab::with("MODEL", &repository().join("tests/model").display().to_string());
    assert_eq!(key, plain.call(&["why", "test.ron", "text"]).succeeds().stdout);
    assert!(key.contains("\nkey: "), "{key}");
    // What is there is used without asking, also where asking is forbidden.
    lab.call(&["run", "test.ron", "--until", "captions"]).succeeds();
    lab.call_with(&["fetch", "test.ron"], &[("HF_HUB_OFFLINE", "1")]).succeeds();
    assert_eq!(lab.server.state().log.len(), asked);
}

#[test]
fn a_run_downloads_first() {
    let lab = Lab::new();
    lab.call(&["run", "test.ron", "--until", "captions"]).succeeds();
    assert!(lab.blob().exists());
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let lab = Lab::new();
    lab.server.state().breaks = 2;
    lab.call(&["fetch", "test.ron"]).succeeds();
    let (half, three_quarters) = (model(MODEL[0]).len() / 2, model(MODEL[0]).len().div_ceil(4));
    let transfers = lab.server.state().transfers();
    assert_eq!(transfers[..2], [0, half]);
    assert!(transfers[2].abs_diff(model(MODEL[0]).len() - three_quarters) < 2, "{transfers:?}");
}

#[test]
fn a_download_that_ended_badly_goes_on_in_the_next_run() {
    // The client tries seven times, and takes the last for a failure whatever came of it.
    for breaks in [6, 7] {
        let lab = Lab::new();
        lab.server.state().breaks = breaks;
        let what = "hf://lab/tiny/sd3_tiny.safetensors can't be downloaded";
        lab.call(&["fetch", "test.ron"]).fails(1, &[what, "run again"]);
        assert!(!lab.blob().exists());
        let came = fs::metadata(lab.blob().with_extension("part")).unwrap().len() as usize;
        lab.call(&["plan", "test.ron"]).succeeds().says("download   hf://lab/tiny/sd3_tiny.safetensors");
        lab.call(&["fetch", "test.ron"]).succeeds();
        assert_eq!(fs::read(lab.blob()).unwrap(), model(MODEL[0]));
        let next = lab.server.state().transfers()[7];
        assert_eq!(next, if breaks == 6 { 0 } else { came }, "of the next file, or of the rest of this one");
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_and_what_came_is_kept() {
    let lab = Lab::new();
    let short = [("HF_HUB_ETAG_TIMEOUT", "1"), ("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    lab.server.state().silent = true;
    lab.call_with(&["fetch", "test.ron"], &short)
        .fails(1, &["hf://lab/tiny/sd3_tiny.safetensors", "said nothing for 1 s", "HF_HUB_ETAG_TIMEOUT"]);
    (lab.server.state().silent, lab.server.state().stalls) = (false, true);
    lab.call_with(&["fetch", "test.ron"], &short).fails(1, &["said nothing for 1 s", "HF_HUB_DOWNLOAD_TIMEOUT"]);
    lab.server.state().stalls = false;
    lab.call(&["fetch", "test.ron"]).succeeds();
    assert_eq!(lab.server.state().transfers()[..2], [0, model(MODEL[0]).len() / 2]);
    assert_eq!(fs::read(lab.blob()).unwrap(), model(MODEL[0]));
}

#[test]
fn a_gated_model_is_told_with_what_to_do_and_read_with_a_token() {
    let lab = Lab::new();
    lab.server.state().gated = true;
    let page = format!("{}/lab/tiny", lab.server.url);
    lab.call(&["plan", "test.ron"]).succeeds().says("may not be read without a token");
    lab.call(&["fetch", "test.ron"]).fails(1, &["no token was given", &page, "HF_TOKEN", "hf auth login"]);
    let wrong = [("HF_TOKEN", "hf_wrong")];
    lab.call_with(&["fetch", "test.ron"], &wrong).fails(1, &["the token that was given does not reach it"]);
    lab.call_with(&["plan", "test.ron"], &[("HF_TOKEN", TOKEN)]).succeeds().says("1.6 MiB");
    fs::create_dir_all(lab.folder.path().join("hf")).unwrap();
    fs::write(lab.folder.path().join("hf/token"), format!("{TOKEN}\n")).unwrap();
    lab.call(&["fetch", "test.ron"]).succeeds();
}

#[test]
fn what_is_not_there_is_told() {
    let lab = Lab::with("MODEL/", "hf://lab/huge/");
    lab.call(&["fetch", "test.ron"]).fails(1, &["there is no hf://lab/huge/sd3_tiny.safetensors", "list of files"]);
    lab.call_with(&["run", "test.ron"], &[("HF_HUB_OFFLINE", "1")])
        .fails(1, &["is not in the cache", "HF_HUB_OFFLINE"]);
    Lab::with("MODEL/", "hf://lab/").call(&["plan", "test.ron"]).fails(2, &["is no address", "name a file"]);
    Lab::with("\"photos\"", "\"hf://lab/tiny/photos\"").call(&["plan", "test.ron"]).fails(2, &["there is no folder"]);
}

#[test]
fn other_bytes_than_were_promised_are_refused_and_removed() {
    let lab = Lab::new();
    lab.server.state().lies = true;
    lab.call(&["fetch", "test.ron"]).fails(1, &["hf://lab/tiny/sd3_tiny.safetensors came damaged", "SHA-256"]);
    assert_eq!(
        fs::read_dir(lab.cached().join("blobs"))
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().path().extension().is_none_or(|extension| extension != "lock") })
            .count(),
        0
    );
    lab.call(&["plan", "test.ron"]).succeeds().says("download   hf://lab/tiny/sd3_tiny.safetensors");
    lab.server.state().lies = false;
    lab.call(&["fetch", "test.ron"]).succeeds();
}

#[test]
fn what_a_kill_left_unchecked_is_checked_and_not_downloaded_again() {
    let lab = Lab::new();
    lab.call(&["fetch", "test.ron"]).succeeds();
    let transfers = lab.server.state().transfers().len();
    fs::write(lab.blob().with_extension("unchecked"), "").unwrap();
    lab.call(&["plan", "test.ron"]).succeeds().says("download   hf://lab/tiny/sd3_tiny.safetensors");
    lab.call(&["fetch", "test.ron"]).succeeds();
    assert_eq!(lab.server.state().transfers().len(), transfers);
    fs::write(lab.blob().with_extension("unchecked"), "").unwrap();
    fs::write(lab.blob(), vec![0; model(MODEL[0]).len()]).unwrap();
    lab.call(&["fetch", "test.ron"]).fails(1, &["came damaged"]);
}

#[test]
fn a_file_that_another_revision_has_too_is_not_downloaded_again() {
    let lab = Lab::new();
    lab.call(&["fetch", "test.ron"]).succeeds();
    let transfers = lab.server.state().transfers().len();
    fs::write(
        lab.folder.path().join("test.ron"),
        PIPELINE.replace("MODEL/", "hf://lab/tiny/").replace("tiny.safetensors", "tiny.safetensors@v2"),
    )
    .unwrap();
    lab.call(&["fetch", "test.ron"]).succeeds().says("hf://lab/tiny/sd3_tiny.safetensors@v2");
    assert_eq!(lab.server.state().transfers().len(), transfers);
    // A commit is found without a reference of its name.
    fs::write(
        lab.folder.path().join("test.ron"),
        PIPELINE.replace("MODEL/", "hf://lab/tiny/").replace("tiny.safetensors", &format!("tiny.safetensors@{COMMIT}")),
    )
    .unwrap();
    lab.call_with(&["fetch", "test.ron"], &[("HF_HUB_OFFLINE", "1")]).succeeds();
}

#[test]
fn a_branch_that_moves_while_a_file_is_lacking_brings_only_that_file() {
    let lab = Lab::new();
    lab.call(&["fetch", "test.ron"]).succeeds();
    let transfers = lab.server.state().transfers().len();
    let pointer = lab.cached().join("snapshots").join(COMMIT).join("t5xxl.safetensors");
    fs::remove_file(fs::canonicalize(&pointer).unwrap()).unwrap();
    fs::remove_file(&pointer).unwrap();
    lab.server.state().moved = true;
    lab.call(&["fetch", "test.ron"]).succeeds().says("hit   hf://lab/tiny/sd3_tiny.safetensors");
    assert_eq!(lab.server.state().transfers().len(), transfers + 1);
    lab.call_with(&["fetch", "test.ron"], &[("HF_HUB_OFFLINE", "1")]).succeeds();
}
