//! `sd3pipe submit`: hands a pipeline to a cluster's scheduler: an array of shards, and a job for the rest once they are done.

use super::{Failure, Target, print, progress};
use crate::pipeline::Pipeline;
use clap::Args;
use sd3pipe_stages::device::{Device, Devices};
use std::{
    path::Path,
    process::{Command, Stdio},
};

#[derive(Debug, Args)]
pub(super) struct Submit {
    #[command(flatten)]
    target: Target,
    /// To Slurm, by `sbatch`.
    #[arg(long, required = true)]
    slurm: bool,
    /// How many tasks make the texts and latents, a share each.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    shards: u32,
    /// Prints the shell script that would be run, and runs nothing.
    #[arg(long)]
    dry_run: bool,
    /// Options of `sbatch` for both jobs: `-- --partition=gpu --gres=gpu:1`. Without one that names GPUs, the training is given those
    /// that `devices` names, `--gres=gpu:4` for `Cuda([0, 1, 2, 3])`, and each shard one.
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

impl Submit {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.dry_run {
            return print(&self.script(&self.target.resolve()?.pipeline)?);
        }
        // Here and not by each task: machines that compute often reach no network.
        let resolved = self.target.fetch(&*progress::new())?;
        let script = self.script(&resolved.pipeline)?;
        match Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Submit(status.to_string())),
            Err(error) => Err(Failure::Submit(error.to_string())),
        }
    }

    /// A shell script that submits both jobs.
    fn script(&self, pipeline: &Pipeline) -> Result<String, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Submit(format!("where this program lies is not known: {error}")))?;
        let mut run = format!("{} run {}", quoted_path(&program), quoted_path(&self.target.pipeline));
        self.target.settings.iter().for_each(|setting| run += &format!(" --set {}", quoted(setting)));
        self.target.place.chosen().iter().for_each(|store| run += &format!(" --store {}", quoted_path(store)));
        let options: String = self.options.iter().map(|option| format!(" {}", quoted(option))).collect();
        let named = self.options.iter().any(|option| GPU_OPTIONS.iter().any(|named| option.starts_with(named)));
        let gpus = gpus(pipeline).filter(|_| !named);
        let [of_shard, of_rest] =
            gpus.map_or_else(Default::default, |gpus| gpus.map(|gpus| format!(" --gres=gpu:{gpus}")));
        let unasked = match (&pipeline.devices, pipeline.device) {
            _ if named => "",
            (Some(Devices::All), _) => {
                "echo 'no GPUs are asked for, as `devices: All` names none: give --gres=gpu:4, say, behind --'\n"
            }
            (None, Device::Auto) => "echo 'no GPU is asked for, as `device` names none: give --gres=gpu:1 behind --'\n",
            _ => "",
        };
        let name = &pipeline.name;
        Ok(format!(
            "#!/bin/sh
# Makes the texts and latents of {name} in {count} shards, and the rest once all are done.
set -e
shards=$(sbatch --parsable --job-name={name}-shards --array=1-{count} --requeue{of_shard}{options} <<'END'
{}END
)
shards=${{shards%%;*}}
rest=$(sbatch --parsable --job-name={name} --dependency=afterok:$shards --kill-on-invalid-dep=yes --requeue{of_rest}{options} <<'END'
{}END
) || {{ scancel $shards; exit 1; }}
echo \"submitted $shards, an array of {count} shards, and ${{rest%%;*}}, which does the rest once they are done\"
{unasked}",
            job(&format!("{run} --shard auto")),
            job(&run),
            count = self.shards,
        ))
    }
}

/// How the options of `sbatch` begin that name GPUs.
const GPU_OPTIONS: [&str; 4] = ["--gres", "--gpus", "-G", "--tres-per-"];

/// How many GPUs a shard and the rest need of a machine, if the pipeline names any. Slurm counts those that it gives a job from 0, so that
/// those of higher indices need the ones before them; one is enough for a shard, as there are several.
fn gpus(pipeline: &Pipeline) -> Option<[usize; 2]> {
    let indices = match (&pipeline.devices, &pipeline.device) {
        (Some(Devices::Cuda(indices)), _) => indices.as_slice(),
        (None, Device::Cuda(index)) => std::slice::from_ref(index),
        _ => return None,
    };
    Some([indices.iter().min()?.saturating_add(1), indices.iter().max()?.saturating_add(1)])
}

/// The script of a job. What is killed, for want of memory say, goes back into the queue, and goes on from where it was.
fn job(command: &str) -> String {
    format!(
        "#!/bin/sh
{command}
code=$?
if [ $code -eq 137 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt 3 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
"
    )
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_words_as_they_were() {
        let words = ["plain", "--set", "train.epochs=3", "two words", "it's", "", "$HOME `id` \\ \"x\"", "a;b", "ü"];
        let script = format!("printf '%s\\n' {}", words.map(quoted).join(" "));
        let said = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap().lines().collect::<Vec<_>>(), words);
        assert_eq!(quoted("train.epochs=3"), "train.epochs=3");
    }
}
