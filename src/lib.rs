//! The runner: from a pipeline file to a plan to a run.
