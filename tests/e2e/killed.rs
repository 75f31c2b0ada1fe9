//! Killed anywhere: the next run goes on from the last finished item or saved step, to the same bytes.
//!
//! To add a verb that writes to the store (one that clears it, say): a [`Scenario`] whose state it works on, its steps in
//! [`STEPS`](crate::lab::STEPS), and a kind of case here that carries out the verb with the fault instead of `run`.

use crate::{
    lab::{Lab, STEPS, Scenario, run_with_fault, spread},
    space::TestSpace,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    process::{Child, ExitStatus, Stdio},
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

const SIGKILL: i32 = 9;

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

/// A kill, or several of one run and of the runs that were to go on from it.
type Kills = Vec<String>;

/// The faults of one scenario: before and after each step, and in the middle of each write.
fn kills(lab: &Lab, scenario: Scenario) -> Vec<(Scenario, Kills)> {
    let each = if scenario == Scenario::Fresh { 4 } else { 2 };
    let mut kills = Vec::new();
    for (step, count) in lab.passages(scenario) {
        let mut add = |kind: &str, most: usize| {
            kills.extend(spread(count, most).into_iter().map(|n| (scenario, vec![format!("{kind}@{step}:{n}")])));
        };
        add("kill", each);
        add("kill-after", each);
        if step.ends_with(".write") {
            add("torn", 2 * each);
        }
    }
    kills
}

/// Promise 7, at every step towards the disk.
#[test]
fn a_run_that_is_killed_at_any_step_goes_on_to_the_same_bytes_and_repeats_nothing() {
    let lab = Lab::new(&Scenario::ALL);
    let mut cases: Vec<(Scenario, Kills)> =
        Scenario::ALL.into_iter().flat_map(|scenario| kills(&lab, scenario)).collect();
    let whole_run = lab.steps(Scenario::Fresh).len();
    // Steps in a row, wherever they fall: four kills of runs that each go on from the one before.
    for first in spread(whole_run / 2, 12) {
        cases
            .push((Scenario::Fresh, [first, first / 2 + 10, first / 3 + 10, 20].map(|n| format!("kill@*:{n}")).into()));
    }
    let counts: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let missed = Mutex::new(Vec::new());
    lab.each(&cases, |space, scenario, kills| {
        for fault in kills {
            let status = run_with_fault(space, fault);
            if killed(status) {
                let step = fault.split(['@', ':']).nth(1).expect("a step");
                *counts.lock().expect("counts").entry(step.to_owned()).or_default() += 1;
            } else {
                assert!(status.success(), "{scenario:?}, {fault}: {status}");
                missed.lock().expect("a list").push(format!("{scenario:?}, {fault}"));
            }
        }
        lab.goes_on(space, scenario, &kills.join(", "));
    });
    let (counts, missed) = (counts.into_inner().expect("counts"), missed.into_inner().expect("a list"));
    let total: usize = counts.values().sum();
    counts.iter().for_each(|(step, count)| println!("{step:<20}{count:>6}"));
    println!("{:<20}{total:>6} kills of {} cases; not reached: {missed:?}", "in all", cases.len());
    let hit: BTreeSet<&str> = counts.keys().map(String::as_str).filter(|step| *step != "*").collect();
    assert_eq!(hit, STEPS.into(), "the steps that were hit and those of the list");
    assert!(total >= 500, "{total} kills");
    // Which passages there are depends a little on time: records are published after two seconds at the latest.
    assert!(missed.len() * 50 <= total, "{missed:?}");
}

/// Promise 7, from outside and at random moments. The moments are drawn from a fixed seed; what they hit differs.
#[test]
fn a_run_that_is_killed_at_a_random_moment_goes_on_to_the_same_bytes() {
    let lab = Lab::new(&[Scenario::Edited, Scenario::Fresh, Scenario::Leftovers, Scenario::NoIndex]);
    let mut state = 42_u64;
    let mut moments = |count: usize| {
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Duration::from_micros((state >> 33) % 300_000)
        })
        .take(count)
        .collect::<Vec<_>>()
    };
    let scenarios = [Scenario::Fresh, Scenario::Fresh, Scenario::Edited, Scenario::NoIndex, Scenario::Leftovers];
    let cases: Vec<_> = (0..40).map(|index| (scenarios[index % scenarios.len()], moments(2))).collect();
    let kills = Mutex::new(0);
    lab.each(&cases, |space, scenario, moments| {
        for moment in moments {
            let mut child = start(space, &[], "");
            sleep(*moment);
            child.kill().expect("a signal is sent");
            *kills.lock().expect("a count") += usize::from(killed(child.wait().expect("it ends")));
        }
        lab.goes_on(space, scenario, &format!("killed after {moments:?}"));
    });
    let kills = kills.into_inner().expect("a count");
    println!("{kills} kills from outside");
    assert!(kills >= 40, "{kills}");
}

/// Epochs that take no ten seconds are recorded together, and no state is saved between them.
#[test]
fn a_training_of_short_epochs_that_is_killed_goes_on_to_the_same_bytes() {
    let lab = Lab::new(&[Scenario::Fresh]);
    let kills = spread(lab.steps(Scenario::Fresh).len(), 24).into_iter();
    let cases: Vec<_> = kills.map(|n| (Scenario::Fresh, format!("kill@*:{n}"))).collect();
    let saved = Mutex::new(0);
    lab.each(&cases, |space, scenario, fault| {
        space.edit("test.ron", "save_every: 1", "save_every: 1000");
        run_with_fault(space, fault);
        *saved.lock().expect("a count") += usize::from(!space.files(".sd3pipe/work").is_empty());
        lab.goes_on(space, scenario, fault);
    });
    // Some, if the machine is very slow.
    let saved = saved.into_inner().expect("a count");
    assert!(saved * 4 < cases.len(), "{saved} of {} kills left a state", cases.len());
}

fn start(space: &TestSpace, arguments: &[&str], fault: &str) -> Child {
    let mut command = space.command(&[&["run", "test.ron"], arguments].concat());
    if !fault.is_empty() {
        command.env("SD3PIPE_FAULT", fault);
    }
    command.stdout(Stdio::null()).stderr(space.file("stderr")).spawn().expect("the program starts")
}

fn wait_until(what: &str, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} never came");
        sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    // The system's own command: a signal is not worth a dependency.
    let sent = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
}

fn ended_within(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        match child.try_wait().expect("a child") {
            None if start.elapsed() < most => sleep(Duration::from_millis(5)),
            status => return status,
        }
    }
}

/// A run that stands still in the training, with the claims on it; and a second that waits for it.
fn one_holds_and_one_waits(space: &TestSpace) -> (Child, Child) {
    let holder = start(space, &["--store", ".sd3pipe"], "stall@state.rename:2");
    wait_until("a saved state", || space.files(".sd3pipe/work").keys().any(|path| path.ends_with("state.next")));
    let waiting = start(space, &[], "");
    wait_until("the line of who waits", || {
        let said = String::from_utf8(space.read("stderr")).expect("a text");
        said.contains(&format!("waiting for process {}: sd3pipe run test.ron --store .sd3pipe", holder.id()))
    });
    (holder, waiting)
}

#[test]
fn who_waits_for_a_run_that_is_killed_takes_over() {
    let lab = Lab::new(&[Scenario::Fresh]);
    lab.each(&[(Scenario::Fresh, ())], |space, scenario, ()| {
        let (mut holder, mut waiting) = one_holds_and_one_waits(space);
        holder.kill().expect("a signal is sent");
        holder.wait().expect("it ends");
        assert_eq!(ended_within(&mut waiting, Duration::from_secs(30)).expect("it goes on").code(), Some(0));
        lab.goes_on(space, scenario, "killed while another waited");
    });
}

/// The second is killed at steps all over the part that it gets to; the first, with its claims, is only slower.
#[test]
fn a_run_killed_beside_another_harms_neither() {
    let lab = Lab::new(&[Scenario::Edited, Scenario::Fresh]);
    let cases: Vec<_> = spread(lab.steps(Scenario::Edited).len(), 16)
        .into_iter()
        .flat_map(|n| [Scenario::Fresh, Scenario::Edited].map(|scenario| (scenario, format!("kill@*:{n}"))))
        .collect();
    lab.each(&cases, |space, scenario, fault| {
        let mut first = start(space, &[], "");
        wait_until("a claim", || space.files(".sd3pipe/locks").len() > 2);
        signal(&first, "-STOP");
        let mut second = start(space, &[], fault);
        // It comes to its end, or to the first's claim.
        ended_within(&mut second, Duration::from_millis(300));
        signal(&first, "-CONT");
        let status = second.wait().expect("it ends");
        assert!(killed(status) || status.success(), "{scenario:?}, {fault}: {status}");
        assert_eq!(first.wait().expect("it ends").code(), Some(0), "{scenario:?}, {fault}");
        lab.goes_on(space, scenario, fault);
    });
}

#[test]
fn one_interrupt_ends_the_waiting_for_another() {
    let lab = Lab::new(&[Scenario::Fresh]);
    lab.each(&[(Scenario::Fresh, ())], |space, scenario, ()| {
        let (mut holder, mut waiting) = one_holds_and_one_waits(space);
        signal(&waiting, "-INT");
        assert_eq!(ended_within(&mut waiting, Duration::from_secs(5)).expect("it need not wait").code(), Some(130));
        assert!(holder.try_wait().expect("a child").is_none(), "the other goes on");
        holder.kill().expect("a signal is sent");
        holder.wait().expect("it ends");
        lab.goes_on(space, scenario, "interrupted while it waited");
    });
}

/// The first interrupt waits for a good moment, and here none comes: the disk hangs.
#[test]
fn a_second_interrupt_leaves_at_once() {
    let lab = Lab::new(&[Scenario::Fresh]);
    let cases =
        ["stall@object.sync:3", "stall@state.sync:2", "stall@record.commit:2"].map(|stall| (Scenario::Fresh, stall));
    lab.each(&cases, |space, scenario, stall| {
        let log = space.path("steps");
        drop(std::fs::remove_file(&log));
        let mut command = space.command(&["run", "test.ron"]);
        command.env("SD3PIPE_FAULT", stall).env("SD3PIPE_FAULT_LOG", &log);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        let (step, count) = stall.split_once('@').and_then(|(_, place)| place.split_once(':')).expect("a place");
        wait_until("the stall", || {
            let steps = std::fs::read_to_string(&log).unwrap_or_default();
            steps.lines().filter(|line| *line == step).count().to_string() == count
        });
        signal(&child, "-INT");
        assert_eq!(ended_within(&mut child, Duration::from_millis(300)), None, "it waits for a good moment");
        signal(&child, "-INT");
        assert_eq!(ended_within(&mut child, Duration::from_secs(5)).expect("it leaves").code(), Some(130));
        lab.goes_on(space, scenario, stall);
    });
}
