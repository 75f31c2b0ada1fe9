//! A pipeline file: as written, with its base and settings folded in, checked, and resolved.
//!
//! [`source`] keeps the texts, [`outline`] finds where everything stands, [`compose`] folds `extends` and `--set` into one
//! text, [`definition`] is what serde reads from it, and [`check`] turns that into a [`Resolved`] or into every error at once.

mod check;
mod compose;
mod definition;
mod diagnostic;
pub(crate) mod ineffective;
mod names;
mod outline;
mod source;

pub use check::{Resolved, ResolvedStage, Upstream};
pub use definition::{Pipeline, options};
pub use diagnostic::{Diagnostic, Diagnostics, suggestion};
pub(crate) use names::{PLAIN_NAME, is_plain_name};
pub use source::{Place, Source, Sources};

use std::path::Path;

/// Reads a pipeline file, folds in its base and the `--set` settings, and checks it. No model is loaded.
///
/// # Errors
/// Everything that is wrong with it, each with its place: syntax and types stop at the first, all semantic errors come together.
pub fn load(path: &Path, settings: &[String]) -> Result<Resolved, Diagnostics> {
    let mut sources = Sources::default();
    let composed = match compose::compose(path, settings, &mut sources) {
        Ok(composed) => composed,
        Err(diagnostics) => return Err(Diagnostics { sources, list: diagnostics }),
    };
    definition::read(&composed)
        .map_err(|diagnostic| vec![diagnostic])
        .and_then(|pipeline| check::check(pipeline, &composed, &sources))
        .map_err(|list| Diagnostics { sources, list })
}
