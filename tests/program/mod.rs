//! The program to test, and what it answered.

use serde_json::Value;
use std::{path::PathBuf, process::Output};

/// The program. A long test can be given a copy, which building does not replace underneath it.
pub fn program() -> PathBuf {
    std::env::var_os("SD3PIPE_TEST_PROGRAM").map_or(env!("CARGO_BIN_EXE_sd3pipe").into(), PathBuf::from)
}

pub fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// What the program answered.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// It ended with this code, and said all of this on standard error.
    #[track_caller]
    pub fn fails(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        for said in said {
            assert!(self.stderr.contains(said), "not said: {said}\n{}", self.stderr);
        }
        self
    }

    #[track_caller]
    pub fn says(self, said: &str) -> Self {
        assert!(self.stdout.contains(said), "not said: {said}\n{}", self.stdout);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}
