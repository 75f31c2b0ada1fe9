//! What the help of each verb teaches: command lines to start from. A test reads them all.

pub(super) const INIT: &str = "Examples:
  sd3pipe init my-style --data photos/
  sd3pipe init my-style --data photos/ --checkpoint hf://stabilityai/stable-diffusion-3-medium/sd3_medium.safetensors";

pub(super) const DATA: &str = "Examples:
  sd3pipe data my-style.ron
  sd3pipe data my-style.ron --set latents.resolution=768 --quick";

pub(super) const FETCH: &str = "Examples:
  sd3pipe fetch my-style.ron
A model is named by its address in the place of a path: hf://owner/repo/file or hf://owner/repo/file@revision. It is kept in the cache
that all programs of Hugging Face share; what is there is used without asking. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE count.";

pub(super) const IMPORT: &str = "Examples:
  sd3pipe import --output my-style.ron -- accelerate launch --num_processes 4 sd3_train.py --dataset_config data.toml
  sd3pipe import --script train.sh --output my-style.ron --as-of 2024-07
Nothing of the command is run. Each option is mapped, or a comment says what it did there; docs/sd-scripts.md has all of them.";

pub(super) const SAMPLE: &str = "Examples:
  sd3pipe sample last --epoch best --prompt 'a lighthouse in the fog' --seed 1 --seed 2
  sd3pipe sample my-style --epoch 8 --epoch 12 --cfg 5 --sampler dpm2m
  sd3pipe sample last --image sketch.png --strength 0.6
  sd3pipe sample last --skip-layers 7,8,9";

pub(super) const DIFF: &str = "Examples:
  sd3pipe diff 11 12
  sd3pipe diff 12 last --out pairs";

pub(super) const REPORT: &str = "Examples:
  sd3pipe report my-style.ron";

pub(super) const PLAN: &str = "Examples:
  sd3pipe plan my-style.ron
  sd3pipe plan my-style.ron --set train.epochs=20 --bytes
  sd3pipe plan my-style.ron --rates
  sd3pipe plan my-style.ron --resolved";

pub(super) const RUN: &str = "Examples:
  sd3pipe run my-style.ron
  sd3pipe run my-style.ron --set train.learning_rate=5e-5 --until train
  sd3pipe run my-style.ron --force sample
  sd3pipe run my-style.ron --sample-every 4
  sd3pipe run my-style.ron --shard 2/8
  sd3pipe run my-style.ron --notify 'notify-send \"$SD3PIPE_PIPELINE: $SD3PIPE_OUTCOME\"'
Ctrl-C saves the state and ends the run; the next one goes on from there.";

pub(super) const SUBMIT: &str = "Examples:
  sd3pipe submit --slurm my-style.ron --shards 16 -- --partition=gpu --gres=gpu:1 --time=8:00:00
  sd3pipe submit --slurm my-style.ron --dry-run > jobs.sh
All machines must see the pipeline, its data and the store under the same paths. Where the two jobs need other options than each other,
print the script, edit it and run it with sh.";

pub(super) const WHY: &str = "Examples:
  sd3pipe why my-style.ron train
  sd3pipe why my-style.ron sample --set sample.cfg=6.0";

pub(super) const STATUS: &str = "Examples:
  sd3pipe status my-style.ron";

pub(super) const GRAPH: &str = "Examples:
  sd3pipe graph my-style.ron
  sd3pipe graph my-style.ron --format dot";

pub(super) const INSPECT: &str = "Examples:
  sd3pipe inspect models/sd3_medium.safetensors
  sd3pipe inspect somebodys-lora.safetensors --json";

pub(super) const PUSH: &str = "Examples:
  sd3pipe push my-style.ron
  sd3pipe push my-style.ron --set 'store.remote=\"s3://bucket/prefix\"'
What is there is not sent again. Credentials come from where the cloud's own programs have them: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.";

pub(super) const PULL: &str = "Examples:
  sd3pipe pull my-style.ron
A run brings what it needs by itself; this brings everything, for a machine that will be offline.";

pub(super) const PACK: &str = "Examples:
  sd3pipe pack my-style.ron -o my-style.bundle
  sd3pipe pack my-style.ron --stage latents,text -o my-style.bundle
The bundle has latents, encoded texts, captions and the digests of the pictures, and no picture.";

pub(super) const UNPACK: &str = "Examples:
  sd3pipe unpack my-style.bundle my-style.ron
Then `sd3pipe run my-style.ron` trains. The pipeline names the same data folders, which need not be there: a listing is put in their
place. The model's files are needed as ever.";

pub(super) const RUNS: &str = "Examples:
  sd3pipe runs
  sd3pipe runs my-style.ron --limit 5";

pub(super) const SHOW: &str = "Examples:
  sd3pipe show last
  sd3pipe show 12 my-style.ron --json";

pub(super) const STORE: &str = "Examples:
  sd3pipe store my-style.ron";

pub(super) const GC: &str = "Examples:
  sd3pipe gc my-style.ron --keep-runs 2 --dry-run
  sd3pipe gc --older-than 30d --max-size 200GiB";

pub(super) const PIN: &str = "Examples:
  sd3pipe pin 12 --note 'the good one'
  sd3pipe pin last my-style.ron";

pub(super) const UNPIN: &str = "Examples:
  sd3pipe unpin 12";

pub(super) const VERIFY: &str = "Examples:
  sd3pipe verify my-style.ron
  sd3pipe verify my-style.ron --repair";

pub(super) const DOCTOR: &str = "Examples:
  sd3pipe doctor
  sd3pipe doctor my-style.ron";

pub(super) const COMPLETIONS: &str = "Examples:
  sd3pipe completions bash > ~/.local/share/bash-completion/completions/sd3pipe
  sd3pipe completions zsh > ~/.zfunc/_sd3pipe
  sd3pipe completions fish > ~/.config/fish/completions/sd3pipe.fish";

pub(super) const MAN: &str = "Examples:
  sd3pipe man | man -l -
  sd3pipe man ~/.local/share/man/man1";

#[cfg(test)]
mod tests {
    use super::super::CommandLine;
    use clap::{CommandFactory, Parser};

    /// The words of a command line, as a shell would split it before the first `|` or `>`.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                '|' | '>' if !quoted => break,
                ' ' if !quoted => words.push(String::new()),
                c => words.iter_mut().last().into_iter().for_each(|word| word.push(c)),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn the_help_of_every_verb_has_examples_that_are_right() {
        let verbs = CommandLine::command();
        let verbs: Vec<_> = verbs.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
        assert!(verbs.len() > 15);
        for verb in verbs {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(!examples.is_empty(), "{} has no example", verb.get_name());
            for example in examples {
                let words = words(example);
                assert_eq!(words[..2], ["sd3pipe", verb.get_name()], "{example}");
                CommandLine::try_parse_from(&words).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }

    #[test]
    fn the_definitions_of_the_command_line_contradict_each_other_nowhere() {
        CommandLine::command().debug_assert();
    }
}
