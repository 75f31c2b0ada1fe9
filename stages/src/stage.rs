//! A stage as a pipeline declares it: its kind, its parameters, and the stages that it reads from.

use crate::{
    captions::parameters::Captions, export::parameters::Export, images::parameters::EncodeImages, problem::Problem,
    sample::parameters::Sample, text::parameters::EncodeText, train::parameters::Train,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

/// A stage's kind with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a pipeline has a handful of them")]
pub enum Stage {
    /// Finds the images and reads their captions.
    Captions(Captions),
    /// Encodes every distinct text.
    EncodeText(EncodeText),
    /// Encodes every image.
    EncodeImages(EncodeImages),
    /// Trains the MMDiT.
    Train(Train),
    /// Writes checkpoints.
    Export(Export),
    /// Draws samples.
    Sample(Sample),
}

/// The kind of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// See [`Stage::Captions`].
    Captions,
    /// See [`Stage::EncodeText`].
    EncodeText,
    /// See [`Stage::EncodeImages`].
    EncodeImages,
    /// See [`Stage::Train`].
    Train,
    /// See [`Stage::Export`].
    Export,
    /// See [`Stage::Sample`].
    Sample,
}

impl Kind {
    /// Whether its stages make something for each item by itself, or only read: several machines can then make a share each.
    pub fn is_by_item(self) -> bool {
        matches!(self, Self::Captions | Self::EncodeText | Self::EncodeImages)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

/// A field in which a stage may name the stage that it reads from.
#[derive(Debug)]
pub struct Input<'s> {
    /// The field's name, which is also the role of what is read.
    pub role: &'static str,
    /// The kind of stage that it must name.
    pub kind: Kind,
    /// What it names, if it does.
    pub named: &'s mut Option<String>,
}

impl Stage {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Captions(_) => Kind::Captions,
            Self::EncodeText(_) => Kind::EncodeText,
            Self::EncodeImages(_) => Kind::EncodeImages,
            Self::Train(_) => Kind::Train,
            Self::Export(_) => Kind::Export,
            Self::Sample(_) => Kind::Sample,
        }
    }

    /// Raised by hand whenever a stage's output for equal input changes: the golden tests hold it to that.
    pub fn revision(&self) -> u32 {
        match self {
            Self::Captions(_) => crate::captions::REVISION,
            Self::EncodeText(_) => crate::text::REVISION,
            Self::EncodeImages(_) => crate::images::REVISION,
            Self::Train(_) => crate::train::REVISION,
            Self::Export(_) => crate::export::REVISION,
            Self::Sample(_) => crate::sample::REVISION,
        }
    }

    /// The fields that name other stages.
    pub fn inputs(&mut self) -> Vec<Input<'_>> {
        match self {
            Self::Captions(_) => Vec::new(),
            Self::EncodeText(stage) => {
                vec![Input { role: "captions", kind: Kind::Captions, named: &mut stage.captions }]
            }
            Self::EncodeImages(stage) => {
                vec![Input { role: "captions", kind: Kind::Captions, named: &mut stage.captions }]
            }
            Self::Train(stage) => vec![
                Input { role: "text", kind: Kind::EncodeText, named: &mut stage.text },
                Input { role: "latents", kind: Kind::EncodeImages, named: &mut stage.latents },
            ],
            Self::Export(stage) => vec![Input { role: "train", kind: Kind::Train, named: &mut stage.train }],
            Self::Sample(stage) => vec![Input { role: "export", kind: Kind::Export, named: &mut stage.export }],
        }
    }

    /// Values out of range, without a look at any file.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Captions(stage) => stage.problems(),
            Self::EncodeText(stage) => stage.problems(),
            Self::EncodeImages(stage) => stage.problems(),
            Self::Train(stage) => stage.problems(),
            Self::Export(stage) => stage.problems(),
            Self::Sample(stage) => stage.problems(),
        }
    }

    /// The parameters that its result depends on: all but the names of other stages and what a test shows to change nothing. The weights
    /// that a training starts from are in its key by what is in them.
    pub fn parameters(&self) -> Result<Value, serde_json::Error> {
        let (mut value, outside) = match self {
            // Paths are not in it: the same pictures in another folder are the same data.
            Self::Captions(stage) => (serde_json::to_value(stage)?, &["data"][..]),
            Self::EncodeText(stage) => (serde_json::to_value(stage)?, &["captions", "batch"][..]),
            Self::EncodeImages(stage) => (serde_json::to_value(stage)?, &["captions", "batch"][..]),
            Self::Train(stage) => (
                serde_json::to_value(stage)?,
                &["text", "latents", "init", "save_every", "fused_step", "block_swap"][..],
            ),
            Self::Export(stage) => (serde_json::to_value(stage)?, &["train"][..]),
            Self::Sample(stage) => (serde_json::to_value(stage)?, &["export", "batch"][..]),
        };
        // What a file holds is in the key, not where it lies.
        for (holder, path) in [("/method/LoRA", "from"), ("/image", "path"), ("/lora", "path")] {
            value.pointer_mut(holder).and_then(Value::as_object_mut).and_then(|holder| holder.remove(path));
        }
        // Fields that came after the first release are left out at their defaults, so that older results are still found.
        let added = match self {
            Self::Captions(_) => &[
                ("lines", json!("First")),
                ("wildcards", Value::Null),
                ("shuffle.keep_tokens_separator", json!("")),
                ("shuffle.secondary_separator", json!("")),
                ("shuffle.tag_dropout", json!(0.0)),
                ("shuffle.reorder", json!(true)),
            ][..],
            Self::EncodeImages(_) => &[("further_resolutions", json!([]))][..],
            Self::Train(_) => &[
                ("method", json!("Full")),
                ("target", json!("Velocity")),
                ("loss", json!("L2")),
                ("weighting", json!("None")),
                ("min_timestep", json!(0)),
                ("max_timestep", json!(1000)),
                ("stratified", json!(false)),
                ("prior_loss_weight", json!(1.0)),
                ("schedule.Cosine.minimum_ratio", json!(0.0)),
                ("weights", json!("F32")),
                ("groups", json!([])),
                ("freeze", json!([])),
                ("decay", json!("All")),
                ("checkpointing", json!("None")),
                ("validation", Value::Null),
                ("stop", Value::Null),
                ("average", Value::Null),
            ][..],
            Self::Export(_) => &[
                ("layout", json!("SingleFile")),
                ("text_encoders", json!(false)),
                ("lora", Value::Null),
                ("weights", json!("Trained")),
            ][..],
            Self::Sample(_) => &[
                ("sampler", json!("Euler")),
                ("skip_layers", Value::Null),
                ("image", Value::Null),
                ("lora", Value::Null),
                ("lora_strength", json!(1.0)),
            ][..],
            Self::EncodeText(_) => &[],
        };
        if let Value::Object(fields) = &mut value {
            fields.retain(|name, _| !outside.contains(&name.as_str()));
        }
        for (path, default) in added {
            let steps = path.split('.').collect::<Vec<_>>();
            let Some((last, parents)) = steps.split_last() else { continue };
            let parent = parents.iter().try_fold(&mut value, |value, step| value.get_mut(step));
            if let Some(Value::Object(fields)) = parent
                && fields.get(*last) == Some(default)
            {
                fields.remove(*last);
            }
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::parameters::{Lora, Method},
        export::parameters::Layout,
    };

    #[test]
    fn a_training_of_all_weights_has_the_key_that_it_had_and_an_adapters_file_is_not_in_it_by_its_path() {
        let of = |method| Stage::Train(Train { method, ..Train::default() }).parameters().unwrap();
        assert_eq!(of(Method::Full).get("method"), None);
        let from = |path: &str| of(Method::LoRA(Lora { from: Some(path.into()), ..Lora::default() }));
        assert_eq!(from("a"), from("b"));
        assert_eq!(from("a")["method"]["LoRA"]["rank"], json!(16));
    }

    #[test]
    fn what_was_added_to_captions_and_images_is_in_their_keys_only_when_it_is_used() {
        let captions = |settings: &str| Stage::Captions(ron::from_str(settings).unwrap()).parameters().unwrap();
        let first = json!({
            "missing": "Error", "prefix": "", "suffix": "", "separator": ",", "extensions": ["txt", "caption"],
            "shuffle": {"variants": 8, "keep_tokens": 0}
        });
        assert_eq!(captions("(data: [(path: \"x\", weight: 2.0)], shuffle: Some(()))"), first);
        for settings in ["lines: All", "wildcards: Some(())", "shuffle: Some((tag_dropout: 0.1))"] {
            assert_ne!(captions(&format!("({settings})")), captions("()"), "{settings}");
        }
        let images = |settings: &str| Stage::EncodeImages(ron::from_str(settings).unwrap()).parameters().unwrap();
        assert_eq!(
            images("()").as_object().unwrap().keys().collect::<Vec<_>>(),
            ["buckets", "precision", "resolution"]
        );
        assert_eq!(images("(further_resolutions: [512])")["further_resolutions"], json!([512]));
    }

    #[test]
    fn what_was_added_to_export_is_in_its_key_only_when_it_is_used() {
        let of = |export| Stage::Export(export).parameters().unwrap();
        assert_eq!(of(Export::default()), json!({"epochs": "All", "precision": "F16"}));
        let used = Export { layout: Layout::Diffusers, text_encoders: true, ..Export::default() };
        assert_eq!(
            of(used),
            json!({"epochs": "All", "precision": "F16", "layout": "Diffusers", "text_encoders": true})
        );
    }

    #[test]
    fn what_was_added_to_sample_is_in_its_key_only_when_it_is_used() {
        let of = |settings: &str| Stage::Sample(ron::from_str(settings).unwrap()).parameters().unwrap();
        let first = of("()");
        assert_eq!(of("(batch: 4)"), first);
        assert_eq!(first.as_object().unwrap().len(), 11);
        for settings in ["(sampler: Dpm2m)", "(skip_layers: Some(()))", "(lora_strength: 0.5)"] {
            assert_ne!(of(settings), first, "{settings}");
        }
        for field in ["image", "lora"] {
            let named = |path: &str| of(&format!("({field}: Some((path: \"{path}\")))"));
            assert_eq!(named("a"), named("b"), "{field}");
            assert_ne!(named("a"), first, "{field}");
        }
    }

    /// What a training's key holds of fields that came after the first release.
    #[test]
    fn what_was_added_to_train_is_in_its_key_only_when_it_is_used() {
        let of = |settings: &str| Stage::Train(ron::from_str(settings).unwrap()).parameters().unwrap();
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let first = of("()");
        for settings in [
            "(weights: Bf16Stochastic)",
            "(groups: [(match: \"*\")])",
            "(freeze: [\"*.bias\"])",
            "(decay: Matrices)",
            "(checkpointing: Blocks)",
            "(validation: Some(()))",
            "(stop: Some(()))",
            "(average: Some(()))",
        ] {
            let field = settings[1..].split(':').next().unwrap();
            let used = of(settings);
            assert!(
                !fields(&first).contains(&field.to_owned()) && fields(&used).contains(&field.to_owned()),
                "{field}"
            );
        }
        assert_eq!(of("(fused_step: true, block_swap: 3)"), first);
        let adamw = json!({"AdamW": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01}});
        assert_eq!(first["optimizer"], adamw, "older trainings are still found");
    }
}
