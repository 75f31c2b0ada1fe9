//! `sd3pipe import`: a pipeline out of a training of sd-scripts.

use super::{Failure, print};
use crate::{
    import::{self, Circumstances, Refusal, arguments, shell},
    pipeline,
};
use clap::Args;
use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Writes the pipeline of a training of sd-scripts: of a command, `sd3pipe import -- accelerate launch … sd3_train.py …`, or of the one in a
/// script. Nothing of either is run.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The command, behind `--`.
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "script")]
    command: Vec<String>,
    /// A shell file with the command in it.
    #[arg(long, value_name = "FILE", conflicts_with = "command")]
    script: Option<PathBuf>,
    /// The pipeline to write [default: print it].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Writes over a file that is there.
    #[arg(long, requires = "output")]
    force: bool,
    /// The folder that the command was run in, which its paths start from [default: this one].
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// GPUs that it ran on, where its launcher is not told, but by accelerate's settings.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    processes: Option<u32>,
    /// When it ran, as `2024-07` or `2024-07-12`: sd-scripts' defaults have changed since [default: the newest].
    #[arg(long, value_name = "DATE", value_parser = date)]
    as_of: Option<String>,
    /// T5's `spiece.model` or `tokenizer.json` [default: `spiece.model` beside the T5].
    #[arg(long, value_name = "FILE")]
    t5_tokenizer: Option<PathBuf>,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        let here =
            env::current_dir().map_err(|error| Failure::Usage(format!("there is no current folder: {error}")))?;
        let folder = here.join(self.folder.as_deref().unwrap_or(Path::new("")));
        let (words, folder) = match &self.script {
            None => (self.command, folder),
            Some(script) => {
                let text = fs::read_to_string(script).map_err(|error| {
                    let hint = "name a shell file with the command in it";
                    Failure::Usage(format!("cannot read {}: {error}\nhint: {hint}", script.display()))
                })?;
                let commands = shell::commands(&text, &|name| env::var(name).ok());
                let (command, folder) = arguments::find(commands, &folder).map_err(|refusal| refused(&[refusal]))?;
                (command.words, folder)
            }
        };
        let arguments = arguments::read(&words, folder).map_err(|refusals| refused(&refusals))?;
        let beside = self.output.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let name = self.output.as_deref().and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
        let circumstances = Circumstances {
            target: here.join(beside),
            name,
            processes: self.processes,
            as_of: self.as_of,
            t5_tokenizer: self.t5_tokenizer.map(|file| here.join(file)),
        };
        let imported = import::pipeline(&arguments, &circumstances).map_err(|refusals| refused(&refusals))?;
        let Some(file) = &self.output else {
            imported.notes.iter().for_each(|note| eprintln!("note: {}", super::text::one_line(note)));
            return print(&imported.text);
        };
        write(file, &imported.text, self.force)?;
        let mut said = format!("wrote {}\n", file.display());
        said.extend(imported.notes.iter().map(|note| format!("note: {note}\n")));
        if let Err(faults) = pipeline::load(file, &[]) {
            said.extend(faults.list.iter().map(|fault| format!("still to do: {}\n", fault.message)));
        }
        print(&format!("{said}next: `sd3pipe plan {}`\n", file.display()))
    }
}

fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(force).truncate(force).create_new(!force).open(file);
    opened.and_then(|mut out| out.write_all(text.as_bytes())).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => "choose another name, or write over it with --force",
            _ => "the folder must be there and writable",
        };
        Failure::Usage(format!("cannot write {}: {error}\nhint: {hint}", file.display()))
    })
}

fn refused(refusals: &[Refusal]) -> Failure {
    let list: Vec<String> = refusals.iter().map(|refusal| format!("  {refusal}\n")).collect();
    let head = "this training can't be imported as it is, and nothing was written";
    Failure::Usage(format!("{head}\n{}", list.concat().trim_end()))
}

/// A month or a day, so that texts compare as times do.
fn date(text: &str) -> Result<String, String> {
    let pieces: Vec<&str> = text.split('-').collect();
    let digits = |piece: &&str, count| piece.len() == count && piece.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = match pieces.as_slice() {
        [year, rest @ ..] => {
            digits(year, 4) && (1..=2).contains(&rest.len()) && rest.iter().all(|piece| digits(piece, 2))
        }
        [] => false,
    };
    if is_date { Ok(text.to_owned()) } else { Err("a month as 2024-07, or a day as 2024-07-12".to_owned()) }
}
