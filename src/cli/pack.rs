//! `sd3pipe pack`: writes what stages made into one file, for a machine without the pictures.

use super::{Failure, Survey, Target, print, progress, say_notices, stage_indices, text};
use crate::bundle;
use clap::Args;
use sd3pipe_cache::Store;
use sd3pipe_stages::stage::Kind;
use std::{collections::BTreeSet, path::PathBuf};

#[derive(Debug, Args)]
pub(super) struct Pack {
    #[command(flatten)]
    target: Target,
    /// The stages to pack, with the data that they read, but for its pictures [default: those that encode texts and images].
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    stage: Vec<String>,
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl Pack {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        let mut stages = BTreeSet::new();
        for name in &self.stage {
            stages.extend(stage_indices(&resolved, name)?);
        }
        if self.stage.is_empty() {
            let encodes =
                |index: &usize| matches!(resolved.stages[*index].stage.kind(), Kind::EncodeText | Kind::EncodeImages);
            stages.extend((0..resolved.stages.len()).filter(encodes));
        }
        let store = Store::open_read_only(&self.target.store(&resolved))?;
        let store = store.ok_or_else(|| Failure::Usage("nothing to pack: nothing was run yet".to_owned()))?;
        let mut survey = Survey::take(&resolved, Some(&store), Default::default(), &stages)?;
        let progress = progress::new();
        let (planner, examined) = (&mut survey.planner, &survey.examined);
        let packed = bundle::pack(&self.output, &stages, planner, examined, &store, &*progress);
        say_notices(&store);
        print(&format!("wrote {}, {}\n", self.output.display(), text::size(packed?)))
    }
}
