//! Actions that several runs on one store need at the same time: one makes each, and the others wait for it.

use crate::{action::Action, error::StageError, work::Work};
use sd3pipe_cache::Key;
use std::{collections::BTreeSet, thread, time::Duration};

/// How long to wait before looking again at what others have made: at first, and at most after waiting in vain. Who asks to
/// stop waits no longer than that.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// What carries out some actions of a list, given by their indices.
pub type CarryOut<'c> = dyn FnMut(&[usize], &mut Work<'_>) -> Result<(), StageError> + 'c;

/// How the actions of a job are shared.
#[derive(Clone, Copy, Debug)]
pub struct Sharing<'s> {
    /// The stage, for the line that says who is waited for.
    pub stage: &'s str,
    /// Each action reads the one before it, so that one run makes all of them: the epochs of a training.
    pub chained: bool,
    /// An action that reads all the others: the sheet of samples.
    pub last: Option<usize>,
    /// Does the actions anew whatever the store has.
    pub anew: bool,
}

/// Carries out the `pending` ones of `actions`, but for those that another run makes meanwhile. Returns when all are made.
///
/// No two runs wait for each other, since none waits while it has the right to any of these `actions`. (`run` may share others in turn,
/// as samples do their prompts, which nobody waits for anything while making.)
///
/// # Errors
/// Those of `run`; an interrupt, also while waiting; a store that can't be read or written.
pub fn share(
    actions: &[Action],
    mut pending: Vec<usize>,
    sharing: Sharing<'_>,
    work: &mut Work<'_>,
    run: &mut CarryOut<'_>,
) -> Result<(), StageError> {
    let key = |index: usize| -> Key { actions[if sharing.chained { 0 } else { index }].key };
    let (mut told, mut pause) = (BTreeSet::new(), PAUSES[0]);
    loop {
        let making = work.store.making(pending.iter().map(|index| key(*index)))?;
        if !sharing.anew {
            // After the right to make them was taken: until then another may have been at it.
            let (pending_before, mut missing) = (pending.len(), Vec::new());
            for index in pending {
                if work.store.outputs(&actions[index].key)?.is_none() {
                    missing.push(index);
                }
            }
            if missing.len() < pending_before {
                pause = PAUSES[0];
            }
            pending = missing;
        }
        let granted = |index: &usize| making.keys.contains(&key(*index));
        let all = pending.iter().all(granted);
        let (mine, rest): (Vec<usize>, Vec<usize>) =
            pending.into_iter().partition(|index| granted(index) && (all || sharing.last != Some(*index)));
        if !mine.is_empty() {
            run(&mine, work)?;
            work.flush()?;
        }
        pending = rest;
        let others = making.others.clone();
        drop(making);
        if pending.is_empty() {
            return Ok(());
        }
        let what = if sharing.chained { "whose training starts the same" } else { "which makes the same" };
        for holder in others.into_iter().filter(|holder| told.insert(holder.clone())) {
            work.progress.line(&format!("{}: waiting for {holder}, {what}", sharing.stage));
        }
        work.check_interrupt()?;
        if mine.is_empty() {
            thread::sleep(pause);
            pause = PAUSES[1].min(pause * 2);
        }
    }
}
