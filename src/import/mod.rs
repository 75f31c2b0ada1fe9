//! From a training of sd-scripts, as its command line or a script says it, to a commented pipeline.
//!
//! [`shell`] reads scripts, [`arguments`] the options of a command and of its files, [`options`] knows all that there are, the other files
//! turn them into stages, and [`text`] writes these with a comment on each line. Facts about sd-scripts are as of its commit `48d368fa`.

mod adapter;
pub mod arguments;
mod data;
mod folders;
mod objective;
mod optimizer;
pub mod options;
mod pictures;
mod reader;
mod samples;
mod schedule;
mod scope;
pub mod shell;
mod text;
mod training;
mod words;

use arguments::Arguments;
use options::Trainer;
use reader::Reader;
use std::{
    fmt,
    path::{Path, PathBuf},
};
use text::{Bracket, comment, quoted};

/// What can't be carried over, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What, and why not.
    pub message: String,
    /// What to write in its place.
    pub instead: String,
}

impl Refusal {
    fn new(message: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { message: message.into(), instead: instead.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n    {}", self.message, self.instead)
    }
}

/// What a training's command does not say.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// The folder that the pipeline's paths start from.
    pub target: PathBuf,
    /// What it is called where there is no `--output_name`.
    pub name: Option<String>,
    /// GPUs that it ran on, one process each, where the launcher is not told.
    pub processes: Option<u32>,
    /// The month or day of the sd-scripts that ran it, `2024-07`: defaults have changed since. The newest unless given.
    pub as_of: Option<String>,
    /// The file or folder of T5's tokenizer.
    pub t5_tokenizer: Option<PathBuf>,
}

/// A pipeline, written.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The text of the file.
    pub text: String,
    /// What whoever imports it should know at once.
    pub notes: Vec<String>,
}

/// Writes the pipeline that does what a training of sd-scripts did.
///
/// # Errors
/// All that it can't do.
pub fn pipeline(arguments: &Arguments, circumstances: &Circumstances) -> Result<Imported, Vec<Refusal>> {
    let mut reader = Reader::new(arguments, circumstances);
    let model = model(&mut reader);
    let data = data::read(&mut reader);
    let stages = data.map(|data| {
        let captions = data.captions(&mut reader);
        let text = text_stage(&mut reader);
        let latents = pictures::stage(&mut reader, &data);
        let (train, epochs) = training::stage(&mut reader, &data);
        let export = training::export(&mut reader, epochs);
        let mut stages = Bracket::map();
        stages.field("\"captions\"", captions);
        stages.field("\"text\"", text);
        stages.field("\"latents\"", latents);
        stages.field("\"train\"", train);
        stages.field("\"export\"", export);
        for (name, sample) in samples::stages(&mut reader) {
            stages.field(&quoted(&name), sample);
        }
        stages
    });
    let name = name(&mut reader);
    reader.instead("config_file", "what it says is among the above");
    launcher(&mut reader);
    let left_out = reader.leave();
    let Some(stages) = stages.filter(|_| reader.refusals.is_empty()) else { return Err(reader.refusals) };
    let mut pipeline = Bracket::new("Pipeline");
    let added = pipeline.field("name", &quoted(&name)).from(reader.written("output_name"));
    added.note(format!("Results go to out/{name}/."));
    pipeline.field("model", model);
    pipeline.field("stages", stages);
    let program = if arguments.trainer == Trainer::Full { "sd3_train.py" } else { "sd3_train_network.py" };
    let head = format!(
        "What a training by sd-scripts' {program} said, line by line. `sd3pipe plan` says what a run of it would do; docs/sd-scripts.md says \
         what is different here, and why."
    );
    let mut text = comment(&head, 0) + &pipeline.write(0) + "\n";
    if !left_out.is_empty() {
        text += "\n// What came to no field:\n";
        text.extend(left_out.iter().map(|line| comment(line, 0)));
    }
    check(&text)?;
    Ok(Imported { text, notes: reader.notes })
}

/// What the words in front of the program did not do, or leave open.
fn launcher(reader: &mut Reader<'_>) {
    let words = &reader.arguments.launcher;
    if let Some(precision) = arguments::told(words, &["mixed_precision"])
        && !reader.arguments.given.contains_key("mixed_precision")
    {
        let why = "had no effect: sd-scripts goes by its own --mixed_precision, which is `no` unless given";
        reader.notes.push(format!("accelerate's --mixed_precision {precision} {why}"));
        reader.remark(format!("accelerate's --mixed_precision {precision} {why}."));
    }
    let accelerates = words.iter().any(|word| word.ends_with("accelerate"));
    if accelerates && reader.arguments.processes.or(reader.circumstances.processes).is_none() {
        let note = "on how many GPUs it ran is said in accelerate's own settings: one is taken unless --processes says how many";
        reader.notes.push(note.to_owned());
    }
}

/// That the pipeline's own rules, without a look at any file, have nothing against it.
fn check(text: &str) -> Result<(), Vec<Refusal>> {
    let pipeline: crate::pipeline::Pipeline = crate::pipeline::options().from_str(text).map_err(|error| {
        vec![Refusal::new(format!("what it comes to is no pipeline: {error}"), "please report this command")]
    })?;
    let problems = pipeline.stages.iter().flat_map(|(name, stage)| {
        stage.problems().into_iter().map(move |problem| {
            let message = format!("it comes to `{name}.{}`, which is refused: {}", problem.path, problem.message);
            Refusal::new(message, problem.hint.unwrap_or_else(|| "leave out what it comes from".to_owned()))
        })
    });
    let problems: Vec<Refusal> = problems.collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn name(reader: &mut Reader<'_>) -> String {
    let said = reader.circumstances.name.clone();
    let written = reader.text("output_name");
    let chosen = written.or(said).unwrap_or_else(|| "imported".to_owned());
    let plain: String =
        chosen.chars().map(|c| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect();
    plain
        .chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= 100).then_some(c)
        })
        .collect()
}

fn model(reader: &mut Reader<'_>) -> Bracket {
    let mut model = Bracket::new("");
    for (field, option) in [
        ("checkpoint", "pretrained_model_name_or_path"),
        ("vae", "vae"),
        ("clip_l", "clip_l"),
        ("clip_g", "clip_g"),
        ("t5xxl", "t5xxl"),
    ] {
        if let Some(path) = reader.text(option) {
            model.field(field, &reader.path(&path)).from(format!("--{option}"));
        } else if field == "checkpoint" {
            reader.refuse("--pretrained_model_name_or_path is missing", "name the checkpoint to start from");
        }
    }
    let cache = reader.text("tokenizer_cache_dir").map(|folder| PathBuf::from(folder).join("google_t5-v1_1-xxl"));
    if let Some(t5) = reader.text("t5xxl") {
        let mut tokenizers = Bracket::new("");
        let beside = Path::new(&t5).with_file_name("spiece.model");
        let (file, from) = match (reader.circumstances.t5_tokenizer.clone(), cache) {
            (Some(file), _) => (file, "--t5-tokenizer"),
            (None, Some(folder)) => (folder, "--tokenizer_cache_dir"),
            (None, None) => (beside, ""),
        };
        let path = reader.path(&file.to_string_lossy());
        let asked = reader.circumstances.t5_tokenizer.is_some();
        if !asked && !reader.arguments.folder.join(&file).exists() {
            reader.notes.push(format!(
                "sd-scripts downloads T5's tokenizer: put spiece.model of huggingface.co/google/t5-v1_1-xxl at {}, or say where it is with \
                 --t5-tokenizer",
                file.display()
            ));
        }
        let added = tokenizers.field("t5", &path).from(from);
        if !asked {
            added.note("`spiece.model` of huggingface.co/google/t5-v1_1-xxl, which sd-scripts downloads. CLIP's tokenizer is built in.");
        }
        model.field("tokenizers", tokenizers);
    }
    model
}

/// Rows of T5's output, and who says so.
fn t5_tokens(reader: &mut Reader<'_>) -> (u32, String) {
    match reader.number("t5xxl_max_token_length") {
        Some(count) => (count, reader.written("t5xxl_max_token_length")),
        None if reader.before("2024-07-27") => (77, "what it was before the end of July 2024".to_owned()),
        None => (256, reader.source("t5xxl_max_token_length")),
    }
}

fn text_stage(reader: &mut Reader<'_>) -> Bracket {
    let mut text = Bracket::new("EncodeText");
    let (tokens, source) = t5_tokens(reader);
    text.field("t5_tokens", &tokens).from(source);
    if training::precision(reader) == "F32" {
        text.field("precision", &"F32").from("without --mixed_precision");
    }
    if let Some(batch) = reader.number::<u32>("text_encoder_batch_size") {
        text.field("batch", &batch).from(reader.written("text_encoder_batch_size"));
    }
    text
}
