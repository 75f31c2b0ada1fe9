//! A pipeline file: as written, with its base and settings folded in, checked, and resolved.
//!
//! [`source`] keeps the texts, [`outline`] finds where everything stands, [`compose`] folds `extends` and `--set` into one
//! text, [`definition`] is what serde reads from it, and [`check`] turns that into a [`Resolved`] or into every error at once.
//! Of a pipeline with a [`grid`] each point goes that way, and all are joined into one graph.

mod across;
mod check;
mod compose;
mod definition;
mod diagnostic;
mod grid;
pub(crate) mod ineffective;
mod names;
mod outline;
mod source;
mod store;

pub use check::{Resolved, ResolvedStage, Upstream, base_and_point};
pub use definition::{Pipeline, options};
pub use diagnostic::{Diagnostic, Diagnostics, suggestion};
pub use grid::is_at;
pub(crate) use names::{PLAIN_NAME, is_plain_name};
pub use source::{Place, Source, Sources};
pub use store::{RemoteMode, STORE, StorePlaces};

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Reads a pipeline file, folds in its base and the `--set` settings, and checks it. No model is loaded.
///
/// # Errors
/// Everything that is wrong with it, each with its place: syntax and types stop at the first, all semantic errors come together.
pub fn load(path: &Path, settings: &[String]) -> Result<Resolved, Diagnostics> {
    let mut sources = Sources::default();
    resolve(path, settings, true, &mut sources).map_err(|list| Diagnostics { sources, list })
}

/// The same, but the files that it names need not be there.
///
/// # Errors
/// As [`load`].
pub fn load_anywhere(path: &Path, settings: &[String]) -> Result<Resolved, Diagnostics> {
    let mut sources = Sources::default();
    resolve(path, settings, false, &mut sources).map_err(|list| Diagnostics { sources, list })
}

/// Reads the text of a pipeline as a run has written it down, and checks it, but for files: they need not be there any more. Its `out/` is
/// that in `folder`.
///
/// # Errors
/// As [`load`].
pub fn read(name: &str, text: &str, folder: &Path) -> Result<Resolved, Diagnostics> {
    let mut sources = Sources::default();
    let (name, text, folder) = (name.to_owned(), text.to_owned(), folder.to_owned());
    let number = sources.add(Source { name, folder, text });
    let read = compose::parse(number, &sources).map_err(|fault| vec![fault]).and_then(|root| {
        let composed = compose::compose(root, &sources);
        let pipeline = definition::read(&composed).map_err(|fault| vec![fault])?;
        check::check(pipeline, &composed, &sources, false)
    });
    read.map_err(|list| Diagnostics { sources, list })
}

/// The store that a pipeline file names, if it can be read and names one. Nothing else of it is looked at.
pub fn local_store(path: &Path) -> Option<PathBuf> {
    let mut sources = Sources::default();
    let root = compose::fold(path, &[], &mut sources).ok()?;
    let local = root.get("store")?.get("local")?;
    let text = &sources.get(local.place.source).text[local.place.range.clone()];
    Some(sources.get(local.place.source).folder.join(options().from_str::<PathBuf>(text).ok()?))
}

fn resolve(path: &Path, settings: &[String], there: bool, sources: &mut Sources) -> Result<Resolved, Vec<Diagnostic>> {
    let mut root = compose::fold(path, settings, sources)?;
    let axes = grid::take(&mut root, settings, sources)?;
    let (mut resolved, mut faults, mut told) = (Vec::new(), Vec::new(), HashSet::new());
    for point in grid::points(&axes) {
        let at_point = grid::at(&root, &axes, &point, sources).map_err(|fault| vec![fault]).and_then(|root| {
            let composed = compose::compose(root, sources);
            let pipeline = definition::read(&composed).map_err(|fault| vec![fault])?;
            check::check(pipeline, &composed, sources, there)
        });
        match at_point {
            Ok(at_point) => resolved.push((point, at_point)),
            // What is wrong at every point is told once.
            Err(list) => faults.extend(list.into_iter().filter(|fault| {
                let place = fault.place.as_ref().map(|place| (place.source, place.range.clone()));
                told.insert((fault.message.clone(), place))
            })),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    grid::join(&axes, resolved)
}
