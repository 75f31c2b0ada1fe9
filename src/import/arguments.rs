//! The options that a training of sd-scripts was given: on its command line, and in the file that `--config_file` names.

use super::{
    Refusal,
    options::{OPTIONS, SdOption, Takes, Trainer, option},
    shell::Command,
    text::number,
};
use crate::pipeline::suggestion;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// One training of sd-scripts.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Which program it starts.
    pub trainer: Trainer,
    /// The processes that it is said to run on, each with a GPU of its own.
    pub processes: Option<u32>,
    /// The words in front of the program.
    pub launcher: Vec<String>,
    /// The folder that its paths start from.
    pub folder: PathBuf,
    /// The options with what is written behind them.
    pub given: BTreeMap<&'static str, Vec<String>>,
    /// Keys of the file that `--config_file` names that are no options, each with the nearest that is.
    pub unknown: Vec<(String, Option<String>)>,
}

const PROGRAMS: [(&str, Trainer); 2] = [("sd3_train.py", Trainer::Full), ("sd3_train_network.py", Trainer::Lora)];

/// Where in a command the name of one of the programs stands, and which.
fn program(words: &[String]) -> Option<(usize, Trainer)> {
    words.iter().enumerate().find_map(|(place, word)| {
        let name = word.rsplit(['/', '\\']).next().unwrap_or(word);
        PROGRAMS.iter().find(|(program, _)| *program == name).map(|(_, trainer)| (place, *trainer))
    })
}

/// Finds the training among the commands of a script that is run in a folder.
///
/// # Errors
/// When there is none or more than one, or something in it only a shell can work out.
pub fn find(commands: Vec<Command>, folder: &Path) -> Result<(Command, PathBuf), Refusal> {
    let mut folder = folder.to_owned();
    let mut trainings = Vec::new();
    for command in commands {
        if let [verb, to] = command.words.as_slice()
            && verb == "cd"
        {
            folder.push(to);
        }
        if program(&command.words).is_some() {
            trainings.push((command, folder.clone()));
        }
    }
    let lines: Vec<String> = trainings.iter().map(|(command, _)| command.line.to_string()).collect();
    match trainings.pop() {
        None => Err(Refusal::new(
            "there is no training of SD3 in it",
            "a command with sd3_train.py or sd3_train_network.py is looked for",
        )),
        Some(_) if !trainings.is_empty() => Err(Refusal::new(
            format!("there are {} trainings in it, on lines {}", lines.len(), lines.join(", ")),
            "import each by itself: `sd3pipe import -- accelerate launch …`",
        )),
        Some((command, folder)) => match command.unclear.first() {
            None => Ok((command, folder)),
            Some(unclear) => Err(Refusal::new(
                format!("what `{unclear}` on line {} is, only the shell can tell", command.line),
                "write its value in its place",
            )),
        },
    }
}

/// Reads a command and the file that its `--config_file` names.
///
/// # Errors
/// Everything in it that is no option of its program, or has no value where one is needed.
pub fn read(words: &[String], folder: PathBuf) -> Result<Arguments, Vec<Refusal>> {
    let Some((place, trainer)) = program(words) else {
        let hint = "after `--` comes `accelerate launch … sd3_train.py …` or `… sd3_train_network.py …`";
        return Err(vec![Refusal::new("this is no training of SD3", hint)]);
    };
    let mut refusals = Vec::new();
    let given = command_line(&words[place + 1..], trainer, &mut refusals);
    let launcher = words[..place].to_vec();
    let processes = processes(&launcher, &folder);
    let mut arguments = Arguments { trainer, processes, launcher, folder, given, unknown: Vec::new() };
    if let Some(file) = arguments.given.get("config_file").and_then(|words| words.first()).cloned()
        && let Err(refusal) = arguments.read_config(&file)
    {
        refusals.push(refusal);
    }
    // What is empty says nothing, in the program too.
    arguments.given.retain(|name, words| {
        option(name).is_none_or(|option| option.takes == Takes::Nothing || words.iter().any(|word| !word.is_empty()))
    });
    if refusals.is_empty() { Ok(arguments) } else { Err(refusals) }
}

/// The options of a command line, as Python's argparse reads them: the last counts, and a name may be cut short.
fn command_line(
    words: &[String],
    trainer: Trainer,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<&'static str, Vec<String>> {
    let is_option =
        |word: &String| word.starts_with('-') && word.len() > 1 && !word.contains(' ') && word.parse::<f64>().is_err();
    let mut given = BTreeMap::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(written) = word.strip_prefix("--") else {
            refusals
                .push(Refusal::new(format!("`{word}` belongs to no option"), "quote values that have spaces in them"));
            continue;
        };
        let (name, value) = match written.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (written, None),
        };
        let option = match named(name, trainer) {
            Ok(option) => option,
            Err(refusal) => {
                refusals.push(refusal);
                while words.next_if(|word| !is_option(word)).is_some() {}
                continue;
            }
        };
        let mut values: Vec<String> = value.into_iter().collect();
        match option.takes {
            Takes::Nothing if !values.is_empty() => {
                refusals.push(Refusal::new(format!("--{} takes no value", option.name), "leave the value out"));
            }
            Takes::Nothing => {}
            Takes::One if values.is_empty() => match words.next_if(|word| !is_option(word)) {
                Some(value) => values.push(value.clone()),
                None => refusals.push(Refusal::new(format!("--{} needs a value", option.name), "write one behind it")),
            },
            Takes::Several if values.is_empty() => {
                values.extend(std::iter::from_fn(|| words.next_if(|word| !is_option(word)).cloned()));
            }
            Takes::One | Takes::Several => {}
        }
        given.insert(option.name, values);
    }
    given
}

/// The option of a program that this is the name of, or the beginning of the name of.
fn named(name: &str, trainer: Trainer) -> Result<&'static SdOption, Refusal> {
    let own = || OPTIONS.iter().filter(|option| trainer.has(option));
    if let Some(option) = own().find(|option| option.name == name) {
        return Ok(option);
    }
    let mut longer = own().filter(|option| !name.is_empty() && option.name.starts_with(name));
    if let (Some(option), None) = (longer.next(), longer.next()) {
        return Ok(option);
    }
    Err(match option(name) {
        Some(_) if trainer == Trainer::Full => {
            Refusal::new(format!("--{name} is an option of sd3_train_network.py alone"), "leave it out")
        }
        Some(_) => Refusal::new(format!("--{name} is an option of sd3_train.py alone"), "leave it out"),
        None => Refusal::new(
            format!("sd-scripts has no option --{name} for SD3"),
            nearest(name, trainer).unwrap_or_else(|| "leave it out".to_owned()),
        ),
    })
}

fn nearest(name: &str, trainer: Trainer) -> Option<String> {
    suggestion(name, OPTIONS.iter().filter(|option| trainer.has(option)).map(|option| option.name))
        .map(|hint| hint.replace('`', "").replace("mean ", "mean --"))
}

/// What a launcher is told by an option of one of these names, with dashes or underscores.
pub fn told(launcher: &[String], names: &[&str]) -> Option<String> {
    launcher.iter().enumerate().rev().find_map(|(place, word)| {
        let (name, value) =
            word.strip_prefix("--")?.split_once('=').map_or((&word[2..], None), |(name, value)| (name, Some(value)));
        let known = names.contains(&name.replace('-', "_").as_str());
        known.then(|| value.map(str::to_owned).or_else(|| launcher.get(place + 1).cloned())).flatten()
    })
}

/// The processes that a launcher starts, as far as its words or its own file of settings say it.
fn processes(launcher: &[String], folder: &Path) -> Option<u32> {
    let value = |names: &[&str]| told(launcher, names);
    if let Some(count) = value(&["num_processes", "nproc_per_node", "num_gpus"]) {
        return count.parse().ok();
    }
    let settings = value(&["config_file"]).and_then(|file| std::fs::read_to_string(folder.join(file)).ok());
    let said = settings.and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("num_processes:").and_then(|count| count.trim().parse().ok()))
    });
    said.or_else(|| value(&["gpu_ids"]).map(|ids| ids.split(',').count() as u32))
}

impl Arguments {
    /// Takes what a file of settings says beyond the command line. Sections in it mean nothing.
    fn read_config(&mut self, file: &str) -> Result<(), Refusal> {
        let name = if file.ends_with(".toml") { file.to_owned() } else { format!("{file}.toml") };
        let Value::Object(entries) = read_table(&self.folder.join(&name), "--config_file")? else { return Ok(()) };
        let flat = entries.into_iter().flat_map(|(key, value)| match value {
            Value::Object(section) => section.into_iter().collect::<Vec<_>>(),
            value => vec![(key, value)],
        });
        for (key, value) in flat {
            let Some(option) = option(&key).filter(|option| self.trainer.has(option)) else {
                self.unknown.push((key.clone(), nearest(&key, self.trainer)));
                continue;
            };
            let words = match (&value, option.takes) {
                (Value::Bool(on), Takes::Nothing) => on.then(Vec::new),
                (Value::Array(list), _) => Some(list.iter().map(plain).collect()),
                (value, _) => Some(vec![plain(value)]),
            };
            if let Some(words) = words {
                self.given.entry(option.name).or_insert(words);
            }
        }
        Ok(())
    }
}

/// Reads a TOML file, or a JSON file by its ending.
///
/// # Errors
/// When it can't be read, or is neither.
pub fn read_table(path: &Path, option: &str) -> Result<Value, Refusal> {
    let fault = |error: &dyn std::fmt::Display, hint: &str| {
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        Refusal::new(format!("{option}: cannot read {}: {first}", path.display()), hint)
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| fault(&error, "relative paths start from the folder that --folder names"))?;
    match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        true => serde_json::from_str(&text).map_err(|error| fault(&error, "it must be JSON")),
        false => toml::from_str(&text).map_err(|error| fault(&error, "it must be TOML")),
    }
}

/// A value as it would stand on a command line.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Number(value) if value.is_f64() => number(value.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::shell;

    fn arguments(line: &str) -> Result<Arguments, Vec<String>> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        read(&words, PathBuf::new()).map_err(|list| list.into_iter().map(|refusal| refusal.to_string()).collect())
    }

    #[test]
    fn options_are_read_as_argparse_does() {
        let line = "accelerate launch --num_processes=4 dir/sd3_train.py --seed 1 --seed=2 --max_train_e 3 --full_bf16 \
            --optimizer_args weight_decay=0.1 betas=0.9,0.99 --logit_mean -0.5 --optimizer_type=Lion";
        let read = arguments(line).unwrap();
        let given: Vec<(&str, String)> = read.given.iter().map(|(name, words)| (*name, words.join(" "))).collect();
        let expected = [
            ("full_bf16", ""),
            ("logit_mean", "-0.5"),
            ("max_train_epochs", "3"),
            ("optimizer_args", "weight_decay=0.1 betas=0.9,0.99"),
            ("optimizer_type", "Lion"),
            ("seed", "2"),
        ];
        assert_eq!(given, expected.map(|(name, words)| (name, words.to_owned())));
        assert_eq!((read.trainer, read.processes), (Trainer::Full, Some(4)));
    }

    #[test]
    fn processes_are_found_wherever_they_are_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("two.yaml"), "a: 1\nnum_processes: 2\n").unwrap();
        for (launcher, count) in [
            ("accelerate launch --num_processes 4", Some(4)),
            ("accelerate launch --num-processes=4 --gpu_ids 0,1", Some(4)),
            ("accelerate launch --multi_gpu --gpu_ids 0,1,2", Some(3)),
            ("accelerate launch --config_file two.yaml", Some(2)),
            ("torchrun --nproc_per_node 8", Some(8)),
            ("accelerate launch --num_cpu_threads_per_process 8", None),
        ] {
            let words: Vec<String> = launcher.split_whitespace().map(str::to_owned).collect();
            assert_eq!(processes(&words, folder.path()), count, "{launcher}");
        }
    }

    #[test]
    fn all_that_is_no_option_is_told_at_once() {
        let found = arguments("python sd3_train.py --learning_rat 1 --network_dim 4 --seed --full_bf16=1 x --max 3")
            .unwrap_err();
        let expected = [
            "sd-scripts has no option --learning_rat for SD3\n    did you mean --learning_rate?",
            "--network_dim is an option of sd3_train_network.py alone\n    leave it out",
            "--seed needs a value\n    write one behind it",
            "--full_bf16 takes no value\n    leave the value out",
            "`x` belongs to no option\n    quote values that have spaces in them",
            "sd-scripts has no option --max for SD3\n    leave it out",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_of_settings_adds_what_the_command_line_does_not_say() {
        let folder = tempfile::tempdir().unwrap();
        let text = "seed = 1\nlearning_rat = 3\n[b]\nlearning_rate = 1e-4\nfull_bf16 = true\nv2 = false\noptimizer_args = [\"a=1\", \"b=2\"]\nvae = \"\"";
        std::fs::write(folder.path().join("all.toml"), text).unwrap();
        let words = ["sd3_train.py", "--config_file", "all", "--seed", "7"].map(str::to_owned);
        let read = read(&words, folder.path().to_owned()).unwrap();
        let names: Vec<&str> = read.given.keys().copied().collect();
        assert_eq!(names, ["config_file", "full_bf16", "learning_rate", "optimizer_args", "seed"]);
        assert_eq!(
            (&read.given["seed"], &read.given["learning_rate"]),
            (&vec!["7".to_owned()], &vec!["1e-4".to_owned()])
        );
        assert_eq!(read.unknown, [("learning_rat".to_owned(), Some("did you mean --learning_rate?".to_owned()))]);
    }

    #[test]
    fn a_script_must_hold_one_training_that_is_clear() {
        let find = |script: &str| {
            let found = find(shell::commands(script, &|_| None), Path::new("/home"));
            found.map(|(command, folder)| (command.line, folder)).map_err(|refusal| refusal.to_string())
        };
        let training = "python sd3_train.py --seed 1";
        assert_eq!(find(&format!("cd sd\necho a\n{training}\ncd ..")), Ok((3, PathBuf::from("/home/sd"))));
        for (script, said) in [
            ("echo sd3".to_owned(), "there is no training"),
            (format!("{training}\n{training}"), "there are 2 trainings in it, on lines 1, 2"),
            (format!("{training} --output_name $NAME"), "what `$NAME` on line 1 is"),
        ] {
            assert!(find(&script).unwrap_err().contains(said), "{script}");
        }
    }
}
