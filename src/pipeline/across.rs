//! What only shows to be wrong when stages are seen together.

use super::{check::Faults, definition::Pipeline};
use sd3pipe_stages::{
    adapter::parameters::Method,
    checkpoint::Component,
    export::parameters::{Epochs, Export, Layout, LoraForm, Weights},
    stage::Stage,
    train::{init::Init, parameters::Train},
};
use std::path::Path;

/// Looks at every stage beside those that it reads; `results` is the folder that the pipeline writes to.
pub(super) fn check(
    pipeline: &Pipeline,
    results: &Path,
    edges: &[Vec<(&'static str, usize)>],
    faults: &mut Faults<'_>,
) {
    for (index, (name, stage)) in pipeline.stages.iter().enumerate() {
        let above = |index: usize| edges[index].first().map(|(_, above)| &pipeline.stages[*above]);
        match stage {
            Stage::Export(export) => {
                if let Some(Stage::Train(train)) = above(index) {
                    for problem in export.epochs.problems("epochs", Some(train.epochs)) {
                        faults.add(&format!("stages.{name}.epochs"), problem.message, problem.hint);
                    }
                    check_lora_form(name, export, &train.method, faults);
                    check_choice(name, export, train, faults);
                }
            }
            Stage::Train(train) => {
                if let Init::File(path) = &train.init
                    && path.starts_with(results)
                {
                    let message = format!(
                        "`init` starts from what `{}` writes itself, which is other weights each time",
                        pipeline.name
                    );
                    let hint = "name the run that made it: init: Run(run: \"12\", epoch: 8)".to_owned();
                    faults.add(&format!("stages.{name}.init"), message, hint);
                }
                // Text and latents of different captions would pair one data set's pictures with another's words.
                let captions: Vec<_> = edges[index]
                    .iter()
                    .filter_map(|(_, above)| edges[*above].first())
                    .map(|(_, index)| index)
                    .collect();
                let regularises = |index: &usize| match &pipeline.stages[*index] {
                    Stage::Captions(captions) => captions.data.iter().any(|dataset| dataset.regularisation),
                    _ => true,
                };
                if train.prior_loss_weight != 1.0 && !captions.iter().any(|index| regularises(index)) {
                    let message = "`prior_loss_weight` has no effect without regularisation images".to_owned();
                    let hint = "leave it out, or add regularisation: true to one of the folders in `data`".to_owned();
                    faults.add(&format!("stages.{name}.prior_loss_weight"), message, hint);
                }
                if captions.windows(2).any(|pair| pair[0] != pair[1]) {
                    let message = format!("`{name}` reads texts and latents of different captions");
                    faults.add(&format!("stages.{name}"), message, "both must come from one Captions stage".to_owned());
                }
            }
            Stage::Sample(sample) if sample.lora_strength != 1.0 => {
                let above_that = edges[index].first().and_then(|(_, export)| above(*export));
                let reason = match (above(index), above_that) {
                    (Some(Stage::Export(Export { lora: Some(LoraForm::Merged(_)), .. })), _) => {
                        "the export has merged the adapter into the model"
                    }
                    (_, Some(Stage::Train(Train { method: Method::Full, .. }))) => "the training has no adapter",
                    _ => continue,
                };
                let hint = "leave it out; `lora` adds an adapter from a file".to_owned();
                faults.add(
                    &format!("stages.{name}.lora_strength"),
                    format!("`lora_strength` has no effect: {reason}"),
                    hint,
                );
            }
            _ => {}
        }
    }
    let has_text = pipeline.stages.values().any(|stage| matches!(stage, Stage::EncodeText(_) | Stage::Sample(_)));
    if has_text && pipeline.model.file(Component::T5).1 && pipeline.model.t5_tokenizer().is_none() {
        let hint = "model: (…, tokenizers: (t5: \"spiece.model\"))".to_owned();
        faults.add("model.t5xxl", "a T5 encoder needs its tokenizer".to_owned(), hint);
    }
}

/// What an export asks for must be what the training keeps.
fn check_choice(name: &str, export: &Export, train: &Train, faults: &mut Faults<'_>) {
    let mut lacks = |field: &str, message: &str, hint: &str| {
        faults.add(&format!("stages.{name}.{field}"), format!("`{field}`: {message}"), hint.to_owned());
    };
    if export.epochs == Epochs::Best && train.validation.is_none() {
        lacks("epochs", "only validation can tell which epoch is the best", "add to Train: validation: (share: 0.1)");
    }
    if export.weights == Weights::Average && train.average.is_none() {
        lacks("weights", "the training keeps no average", "add to Train: average: (decay: 0.9999)");
    }
}

/// Fields of an export that say nothing for this kind of training.
fn check_lora_form(name: &str, export: &Export, method: &Method, faults: &mut Faults<'_>) {
    let mut without_effect = |field: &str, why: &str, hint: &str| {
        faults.add(&format!("stages.{name}.{field}"), format!("`{field}` has no effect: {why}"), hint.to_owned());
    };
    match (method, &export.lora) {
        (Method::Full, Some(_)) => {
            without_effect("lora", "the training has no adapter", "leave it out, or train with method: LoRA()");
        }
        (Method::LoRA(_), None | Some(LoraForm::Kohya | LoraForm::Diffusers | LoraForm::Both)) => {
            let why = "the adapter alone is written";
            let hint = "leave it out, or merge the adapter into the model: lora: Merged(1.0)";
            if export.layout != Layout::SingleFile {
                without_effect("layout", why, hint);
            }
            if export.text_encoders {
                without_effect("text_encoders", why, hint);
            }
        }
        (Method::LoRA(lora), Some(LoraForm::Merged(_))) if !export.text_encoders && lora.clips().next().is_some() => {
            let message = "the adapter is one of the CLIPs too, and a checkpoint without them would lose that";
            let hint = "put them inside: text_encoders: true".to_owned();
            faults.add(&format!("stages.{name}.lora"), message.to_owned(), hint);
        }
        _ => {}
    }
}
