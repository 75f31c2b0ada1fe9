//! Puts the page into `out/`, whole or not at all, and tells whether the one that lies there is up to date.

use super::{gather::Gathered, identity, page};
use crate::{
    pipeline::Resolved,
    plan::PlanError,
    run::{Comparison, Journal, put},
};
use sd3pipe_cache::Digest;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The page's name.
pub const REPORT: &str = "report.html";

/// Where a pipeline's page lies.
pub fn path(resolved: &Resolved) -> PathBuf {
    resolved.results.join(REPORT)
}

/// Where the page of its grid lies.
pub fn comparison_path(resolved: &Resolved) -> PathBuf {
    resolved.results.join("comparison.html")
}

/// What the last line says before the digest of all lines before it.
const SEAL: &str = "</body></html><!-- ";

/// Whether a page is whole, untouched, and shows the results that this journal has. When and how fast these were made is of no
/// account: a run that found everything leaves the page of the run that made it.
pub fn is_current(path: &Path, journal: &Journal) -> bool {
    let Ok(page) = fs::read(path) else { return false };
    let shows = format!("<meta name=\"sd3pipe-shows\" content=\"{}\">", identity(journal));
    let head = &page[..page.len().min(1024)];
    let seal = page.windows(SEAL.len()).rposition(|window| window == SEAL.as_bytes());
    let Some((body, seal)) = seal.map(|at| page.split_at(at)) else { return false };
    head.windows(shows.len()).any(|window| window == shows.as_bytes()) && seal == sealed(body).as_bytes()
}

fn sealed(body: &[u8]) -> String {
    format!("{SEAL}{} -->\n", Digest::of(body))
}

/// Writes the page of a run, or the one of its grid, and gives its bytes.
///
/// # Errors
/// When it can't be written; then the page that was there is there still.
pub fn write(gathered: &Gathered<'_>, comparison: Option<&Comparison>, to: &Path) -> Result<usize, PlanError> {
    let mut page = page(gathered, comparison);
    page += &sealed(page.as_bytes());
    put(to, page.as_bytes()).map_err(|source| PlanError::Deliver { path: to.to_owned(), source })?;
    Ok(page.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_current_while_it_is_untouched_and_shows_the_same_results() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out/report.html");
        let journal = Journal { pipeline: "Pipeline(…)".to_owned(), ..Journal::default() };
        let body = format!("<head><meta name=\"sd3pipe-shows\" content=\"{}\"><body>é", identity(&journal));
        let page = body.clone() + &sealed(body.as_bytes());
        assert!(!is_current(&path, &journal));
        put(&path, page.as_bytes()).unwrap();
        assert!(is_current(&path, &journal));
        let other = Journal { pipeline: "Pipeline(!)".to_owned(), ..Journal::default() };
        assert!(!is_current(&path, &other));
        for damaged in [page.replace("<body>", "<bOdy>"), page[..page.len() - 9].to_owned(), String::new(), page + "x"]
        {
            put(&path, damaged.as_bytes()).unwrap();
            assert!(!is_current(&path, &journal), "{damaged}");
        }
        assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), 1);
    }
}
