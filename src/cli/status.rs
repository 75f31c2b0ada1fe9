//! `sd3pipe status`: which stages are up to date, and how the last run ended.

use super::{Failure, Survey, Target, plan::overview, print, runs::line};
use clap::Args;
use sd3pipe_cache::Store;

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let resolved = self.target.resolve()?;
        let folder = self.target.store(&resolved);
        let store = Store::open_read_only(&folder)?;
        let survey = Survey::take(&resolved, store.as_ref(), Default::default(), &Default::default())?;
        let last = store.as_ref().map(|store| store.last_run(&resolved.pipeline.name)).transpose()?.flatten();
        let last = last.map_or("never run\n".to_owned(), |run| super::text::table(&[line(&run)]));
        let where_to = if store.is_some() { "" } else { " (not there yet)" };
        let table = overview(&resolved, &survey, store.as_ref())?;
        print(&format!("{table}\nlast run   {last}store      {}{where_to}\n", folder.display()))
    }
}
