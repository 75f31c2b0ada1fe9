//! Runs that make a share each of what is made item by item, on one store; and the jobs that a scheduler is given.

use crate::space::{Outcome, TestSpace, program};
use std::process::{Child, Stdio};

const PICTURES: usize = 40;
/// The pictures, the three that any small space has, and the empty prompt.
const TEXTS: usize = PICTURES + 4;
const IMAGES: usize = PICTURES + 3;

fn space() -> TestSpace {
    let space = TestSpace::small();
    for number in 0..PICTURES {
        space.picture(&format!("photos/{number:02}.png"), (64, 64), 50 + number as u8);
        space.write(&format!("photos/{number:02}.txt"), format!("picture {number}"));
    }
    space
}

fn start(space: &TestSpace, shard: &str, more: &[&str]) -> Child {
    let arguments = [&["run", "test.ron", "--shard", shard], more].concat();
    space.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn end(child: Child) -> Outcome {
    Outcome::of(child.wait_with_output().expect("an end"))
}

/// What the runs with these numbers carried out, as `stage: label`.
fn executed(space: &TestSpace, runs: std::ops::RangeInclusive<usize>, store: &str) -> Vec<String> {
    let mut all = Vec::new();
    for run in runs {
        let shown = space.call(&["show", &run.to_string(), "--json", "--store", store]).succeeds().json();
        for stage in shown["journal"]["stages"].as_array().expect("stages") {
            let labels = stage["executed"].as_array().expect("a list").iter();
            all.extend(labels.map(|label| format!("{}: {}", stage["name"].as_str().expect("a name"), label)));
        }
    }
    all.sort();
    all
}

#[test]
fn shards_beside_each_other_make_everything_and_nothing_twice() {
    let space = space();
    for count in [2, 4] {
        let store = format!("store-{count}");
        let shards = (1..=count).map(|number| start(&space, &format!("{number}/{count}"), &["--store", &store]));
        shards.collect::<Vec<_>>().into_iter().for_each(|shard| drop(end(shard).succeeds()));
        let mut made = executed(&space, 1..=count, &store);
        let several = made.len();
        made.dedup();
        assert_eq!((several, made.len()), (TEXTS + IMAGES, TEXTS + IMAGES), "{count} shards");
        let whole = space.call(&["run", "test.ron", "--until", "latents", "--store", &store]).succeeds();
        assert!(whole.stdout.starts_with("nothing to do"), "{}", whole.stdout);
    }
    space.run_with(&["--until", "latents"]).succeeds();
    let results = ["store-2", "store-4", ".sd3pipe"].map(|store| {
        let shown = space.call(&["show", "last", "--json", "--store", store]).succeeds().json();
        let stages = shown["journal"]["stages"].as_array().expect("stages").clone();
        stages.into_iter().map(|stage| (stage["name"].clone(), stage["result"].clone())).collect::<Vec<_>>()
    });
    assert!(results[0] == results[2] && results[1] == results[2], "other results than one run has: {results:?}");
}

#[test]
fn what_a_killed_shard_has_left_is_made_by_it_or_by_a_run_of_the_whole() {
    let space = space();
    let mut killed = space.command(&["run", "test.ron", "--shard", "1/2"]);
    // With its texts recorded, and none of its images.
    killed.env("SD3PIPE_FAULT", "kill@object.write:30").stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(killed.status().expect("the program starts").code(), None);
    let other = end(start(&space, "2/2", &[])).succeeds();
    assert!(other.stdout.contains("left to other shards"), "{}", other.stdout);
    let left = space.planned(&["--until", "latents"]);
    assert!(!left["latents"].is_empty() && left["latents"].len() < IMAGES);
    end(start(&space, "1/2", &[])).succeeds();
    assert_eq!(space.executed()["latents"], left["latents"]);
    assert!(space.planned(&["--until", "latents"]).is_empty());
}

#[test]
fn schedulers_say_which_shard_a_run_is() {
    let space = space();
    let shard = |shard: &str, variables: &[(&str, &str)]| {
        let mut command = space.command(&["run", "test.ron", "--until", "latents", "--shard", shard]);
        Outcome::of(command.envs(variables.iter().copied()).output().expect("the program starts"))
    };
    let slurm = [("ID", "1"), ("MIN", "1"), ("MAX", "2"), ("STEP", "1"), ("COUNT", "2")];
    let slurm = slurm.map(|(name, value)| (format!("SLURM_ARRAY_TASK_{name}"), value));
    let slurm: Vec<(&str, &str)> = slurm.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    shard("auto", &slurm).succeeds().says("left to other shards");
    shard("auto/2", &[("JOB_COMPLETION_INDEX", "1")]).succeeds();
    assert!(space.planned(&["--until", "latents"]).is_empty());
    shard("auto", &[]).fails(2, &["neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"]);
    space
        .run_with(&["--shard", "1/2", "--until", "train"])
        .fails(2, &["`train` is made as a whole", "captions, text, latents"]);
}

#[test]
fn submit_asks_for_the_gpus_that_the_pipeline_names() {
    let asked = |devices: &str, options: &[&str]| {
        let space = TestSpace::small();
        space.edit("test.ron", "device: Cpu", devices);
        let submit = ["submit", "--slurm", "test.ron", "--dry-run", "--"];
        let printed = space.call(&[&submit[..], options].concat()).succeeds().stdout;
        let calls = printed.lines().filter(|line| line.contains("$(sbatch"));
        let gpus: Vec<String> = calls
            .map(|call| call.split(' ').filter(|word| word.starts_with("--g")).collect::<Vec<_>>().join(" "))
            .collect();
        (gpus.join(", "), printed.contains("asked for"))
    };
    let gpus = |text: &str| (text.to_owned(), false);
    assert_eq!(asked("devices: Cuda([0, 1, 2, 3])", &[]), gpus("--gres=gpu:1, --gres=gpu:4"));
    // Those of higher numbers are only there beside the ones before them.
    assert_eq!(asked("devices: Cuda([3, 2])", &[]), gpus("--gres=gpu:3, --gres=gpu:4"));
    assert_eq!(asked("device: Cpu", &[]), gpus(", "));
    for devices in ["devices: All", "device: Auto"] {
        assert_eq!(asked(devices, &[]), (", ".to_owned(), true));
        assert_eq!(asked(devices, &["--gpus-per-node=2"]), gpus("--gpus-per-node=2, --gpus-per-node=2"));
    }
    assert_eq!(asked("devices: Cuda([0, 1])", &["--gres=gpu:h100:1"]), gpus("--gres=gpu:h100:1, --gres=gpu:h100:1"));
}

#[test]
fn submit_prints_the_jobs_that_it_would_submit() {
    let space = TestSpace::small();
    let submit = [
        "submit",
        "--slurm",
        "test.ron",
        "--shards",
        "8",
        "--set",
        "train.epochs=3",
        "--set",
        "sample.prompts=[\"two words\"]",
    ];
    let more = ["--store", "shared store", "--dry-run", "--", "--partition=gpu", "--comment=it's"];
    let printed = space.call(&[&submit[..], &more].concat()).succeeds().stdout;
    let program = program().canonicalize().expect("the program");
    let run = format!(
        "{} run test.ron --set train.epochs=3 --set 'sample.prompts=[\"two words\"]' --store 'shared store'",
        program.display()
    );
    assert_eq!(
        printed,
        format!(
            r#"#!/bin/sh
# Makes the texts and latents of test in 8 shards, and the rest once all are done.
set -e
shards=$(sbatch --parsable --job-name=test-shards --array=1-8 --requeue --partition=gpu '--comment=it'\''s' <<'END'
#!/bin/sh
{run} --shard auto
code=$?
if [ $code -eq 137 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt 3 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
END
)
shards=${{shards%%;*}}
rest=$(sbatch --parsable --job-name=test --dependency=afterok:$shards --kill-on-invalid-dep=yes --requeue --partition=gpu '--comment=it'\''s' <<'END'
#!/bin/sh
{run}
code=$?
if [ $code -eq 137 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt 3 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
END
) || {{ scancel $shards; exit 1; }}
echo "submitted $shards, an array of 8 shards, and ${{rest%%;*}}, which does the rest once they are done"
"#
        )
    );
}

/// With programs in the place of Slurm's that say what they were given.
#[test]
fn submit_hands_both_jobs_over_or_none() {
    let space = TestSpace::small();
    space.write(
        "bin/sbatch",
        "#!/bin/sh\necho \"$@\" >> calls\ncase \"$*\" in *afterok*) exit $REST;; esac\necho '17;cluster'\n",
    );
    space.write("bin/scancel", "#!/bin/sh\necho scancel \"$@\" >> calls\n");
    for name in ["sbatch", "scancel"] {
        let mut rights = std::fs::metadata(space.path(&format!("bin/{name}"))).expect("a file").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o755);
        std::fs::set_permissions(space.path(&format!("bin/{name}")), rights).expect("rights");
    }
    let submit = |rest: &str| {
        let path = format!("{}:{}", space.path("bin").display(), std::env::var("PATH").expect("a path"));
        let mut command = space.command(&["submit", "--slurm", "test.ron"]);
        Outcome::of(command.env("PATH", path).env("REST", rest).output().expect("the program starts"))
    };
    submit("0").succeeds().says("submitted 17, an array of 4 shards");
    submit("3").fails(1, &["the jobs were not submitted"]);
    let calls = String::from_utf8(space.read("calls")).expect("UTF-8");
    assert!(calls.contains("--dependency=afterok:17 ") && calls.ends_with("scancel 17\n"), "{calls}");
}
