//! The weights that a training starts from.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The MMDiT that a training starts from. Its key reads what is in it and not how it's named: the same weights by another way train
/// nothing again, and a run that comes to other weights does. The optimizer starts anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Init {
    /// The pipeline's model. The default.
    #[default]
    Model,
    /// What a run in the same store has trained.
    Run {
        /// The run's number (`sd3pipe runs` lists them); the name of another pipeline, for its newest run that has trained; or `last`, for
        /// the newest run of any other pipeline. A run of this pipeline must be given by its number, as its last run is another one each time.
        run: String,
        /// The epoch, counted from 1; the run's last when absent.
        #[serde(default)]
        epoch: Option<u32>,
        /// The `Train` stage of that run; may be left out when there was just one.
        #[serde(default)]
        stage: Option<String>,
    },
    /// A checkpoint in a file or a diffusers folder, from the pipeline's folder.
    File(PathBuf),
}
