//! What serde reads from a pipeline's text, and the messages when it can't.

use super::{
    compose::{Composed, offset_of},
    diagnostic::{Diagnostic, suggestion},
    ineffective,
    outline::Body,
    store::StorePlaces,
};
use indexmap::IndexMap;
use ron::extensions::Extensions;
use sd3pipe_stages::{
    device::{Device, DeviceKind, Devices},
    model::Model,
    stage::Stage,
};
use serde::{Deserialize, Serialize};

/// A pipeline: a model, and named stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What its results are filed under: `out/<name>/`.
    pub name: String,
    /// The model that everything starts from.
    pub model: Model,
    /// Where it computes.
    #[serde(default)]
    pub device: Device,
    /// Several devices that share the work, in the place of `device`. When absent, there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Devices>,
    /// Where results are kept, and with whom they are shared.
    #[serde(default)]
    pub store: StorePlaces,
    /// Whether a run writes a page that tells what it did and judges its checkpoints, `out/<name>/report.html`.
    #[serde(default = "yes")]
    pub report: bool,
    /// The stages, by the names that people call them.
    pub stages: IndexMap<String, Stage>,
}

impl Pipeline {
    /// The devices that it computes on here; there is one at least.
    pub fn places(&self) -> Vec<Device> {
        self.devices.as_ref().map_or_else(|| vec![self.device], Devices::here)
    }

    /// What they are: all of one kind.
    pub fn device_kind(&self) -> DeviceKind {
        self.places().first().copied().unwrap_or_default().kind()
    }
}

fn yes() -> bool {
    true
}

/// How this program reads and writes RON: `Some(…)` and the inner brackets of `Train((…))` are left out.
pub fn options() -> ron::Options {
    ron::Options::default().with_default_extension(
        Extensions::IMPLICIT_SOME | Extensions::UNWRAP_NEWTYPES | Extensions::UNWRAP_VARIANT_NEWTYPES,
    )
}

/// Reads the composed text; the first thing that does not fit is the error.
pub fn read(composed: &Composed) -> Result<Pipeline, Diagnostic> {
    let text = &composed.text;
    let fault = |error: ron::error::SpannedError, path: &str| {
        let offset = offset_of(text, error.span.start.line, error.span.start.col);
        explain(&error.code, path, composed, offset)
    };
    let mut reader = ron::Deserializer::from_str_with_options(text, &options()).map_err(|error| fault(error, ""))?;
    let pipeline = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        fault(reader.span_error(error.into_inner()), &path)
    })?;
    Ok(pipeline)
}

fn explain(code: &ron::Error, path: &str, composed: &Composed, offset: usize) -> Diagnostic {
    use ron::Error as E;
    let of = |outer: &Option<String>| outer.as_ref().map_or(String::new(), |outer| format!(" in `{outer}`"));
    // `ron` stops behind what it could not read; a name is found again just before that.
    let named = |name: &str| {
        let before = text_before(&composed.text, offset, name.len());
        composed.origin(before.rfind(name).unwrap_or(offset)).map(|mut place| {
            place.range.end = place.range.end.min(place.range.start + name.len());
            place
        })
    };
    let diagnostic = match code {
        E::NoSuchStructField { found, .. } if let Some(reason) = ineffective::reason(found) => {
            Diagnostic::new(format!("`{found}` has no effect on SD3: {reason}"), named(found))
                .hint("leave it out".to_owned())
        }
        E::NoSuchStructField { expected, found, outer } => {
            Diagnostic::new(format!("unknown field `{found}`{}", of(outer)), named(found)).hint(
                suggestion(found, expected.iter().copied())
                    .or_else(|| Some(format!("the fields are {}", list(expected)))),
            )
        }
        E::NoSuchEnumVariant { expected, found, outer } => Diagnostic::new(
            format!("unknown name `{found}`{}", of(outer)),
            named(found),
        )
        .hint(suggestion(found, expected.iter().copied()).or_else(|| Some(format!("it is one of {}", list(expected))))),
        E::MissingStructField { field, outer } => {
            let place = enclosing(composed, path);
            Diagnostic::new(format!("`{field}` is missing{}", of(outer)), place).hint(format!("add `{field}: …`"))
        }
        _ => {
            let place = (!path.is_empty() && path != ".")
                .then(|| composed.place(&outline_path(path)))
                .or_else(|| composed.origin(offset));
            // What an optional value holds has no name of its own.
            let field = path.rsplit('.').find(|step| *step != "?").unwrap_or_default();
            let message = if field.is_empty() { code.to_string() } else { format!("`{field}`: {code}") };
            Diagnostic::new(message, place)
        }
    };
    // `ron` takes the brackets of a `Some` for those of what it holds, which then must not have any.
    let written = composed.root.nearest(&outline_path(path));
    match written.name.as_deref() == Some("Some") && matches!(written.body, Body::List(_)) {
        true => diagnostic.hint("leave out `Some`: what is optional is written as it is".to_owned()),
        false => diagnostic,
    }
}

fn text_before(text: &str, offset: usize, length: usize) -> &str {
    let end = text.len().min(offset + length);
    &text[..(end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len())]
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name in front of the bracket that lacks something, rather than the whole of a long bracket.
fn enclosing(composed: &Composed, path: &str) -> Option<super::Place> {
    let node = composed.root.nearest(&outline_path(path));
    let mut place = node.place.clone();
    place.range.end = place.range.start + node.name.as_ref().map_or(1, String::len);
    Some(place)
}

/// serde's path names variants (`stages.train.Train.epochs`), the outline does not.
fn outline_path(path: &str) -> String {
    path.split('.').filter(|step| !step.starts_with(|c: char| c.is_ascii_uppercase())).collect::<Vec<_>>().join(".")
}
