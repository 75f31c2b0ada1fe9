//! What a pipeline may say about exporting checkpoints.

use crate::{precision::Precision, problem::Problem};
use serde::{Deserialize, Serialize};

/// Writes trained weights as checkpoints that ComfyUI and diffusers load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// The `Train` stage; may be left out when there is just one.
    pub train: Option<String>,
    /// Which epochs are exported.
    pub epochs: Epochs,
    /// Which of the weights that the training has kept. `Trained` unless given.
    pub weights: Weights,
    /// The type of the tensors in the file. `F16` is what most tools expect of SD3.
    pub precision: Precision,
    /// One file or a folder for each checkpoint.
    pub layout: Layout,
    /// Puts the model's text encoders inside too, in the same precision. With a T5-XXL that is 9 GiB more in each checkpoint; most
    /// tools take the encoders from elsewhere.
    pub text_encoders: bool,
    /// What becomes of the adapter of a LoRA training: files of its own in both forms when left out.
    pub lora: Option<LoraForm>,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            train: None,
            epochs: Epochs::All,
            weights: Weights::Trained,
            precision: Precision::F16,
            layout: Layout::SingleFile,
            text_encoders: false,
            lora: None,
        }
    }
}

/// The weights of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weights {
    /// Those that are trained.
    #[default]
    Trained,
    /// Their running mean, of a training with `average`. It often draws better.
    Average,
}

/// What a checkpoint looks like on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// One file with Stability's names, as ComfyUI and diffusers' `from_single_file` load it.
    SingleFile,
    /// A folder, as diffusers' `from_pretrained` loads it: weights and configuration of each network, the scheduler, and the
    /// tokenizers for which the pipeline names files.
    Diffusers,
}

/// What a trained adapter is written as.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum LoraForm {
    /// A file as sd-scripts writes it, for ComfyUI and most other programs.
    Kohya,
    /// A file as PEFT writes it, for diffusers' `load_lora_weights`.
    Diffusers,
    /// A file of either form.
    Both,
    /// A whole checkpoint, in the export's `layout`, with the adapter added at this strength: 1 is what was trained, 0 the model as
    /// it was.
    Merged(f64),
}

/// A choice of epochs, counted from 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Epochs {
    /// Each one.
    All,
    /// The last one.
    Last,
    /// Every n-th, and the last.
    Every(u32),
    /// Just these.
    Only(Vec<u32>),
    /// The one with the lowest held-out loss, of a training with `validation`; the earlier one of equals. For exports.
    Best,
}

impl Export {
    /// Values out of range.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.epochs.problems("epochs", None);
        if let Some(LoraForm::Merged(strength)) = self.lora
            && !(-10.0..=10.0).contains(&strength)
        {
            let problem = Problem::new("lora", format!("{strength} is not from -10 to 10"));
            problems.push(problem.hint("Merged(1.0) is what was trained"));
        }
        problems
    }
}

impl Epochs {
    /// The chosen ones of epochs 1 to `count`, of which `best` is the best, in order.
    pub fn of(&self, count: u32, best: Option<u32>) -> Vec<u32> {
        (1..=count)
            .filter(|epoch| match self {
                Self::All => true,
                Self::Last => *epoch == count,
                Self::Every(step) => epoch.is_multiple_of((*step).max(1)) || *epoch == count,
                Self::Only(list) => list.contains(epoch),
                Self::Best => best == Some(*epoch),
            })
            .collect()
    }

    /// What can't be right when training has `count` epochs, or an unknown number of them.
    pub fn problems(&self, path: &str, count: Option<u32>) -> Vec<Problem> {
        match self {
            Self::Every(0) => vec![Problem::new(path, "`Every(0)` names no epoch").hint("Every(2), say")],
            Self::Only(list) if list.is_empty() => {
                vec![Problem::new(path, "`Only([])` names no epoch").hint("Only([4, 8]), say")]
            }
            Self::Only(list) => list
                .iter()
                .filter(|&&epoch| epoch == 0 || count.is_some_and(|count| epoch > count))
                .map(|epoch| match count {
                    Some(count) => {
                        Problem::new(path, format!("there is no epoch {epoch}: training has epochs 1 to {count}"))
                    }
                    None => Problem::new(path, format!("there is no epoch {epoch}: they are counted from 1")),
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_chosen_in_order_and_count_from_one() {
        assert_eq!(Epochs::All.of(3, None), [1, 2, 3]);
        assert_eq!(Epochs::Last.of(3, None), [3]);
        assert_eq!(Epochs::Every(2).of(5, None), [2, 4, 5]);
        assert_eq!(Epochs::Only(vec![3, 1]).of(3, None), [1, 3]);
        assert_eq!(Epochs::Best.of(3, Some(2)), [2]);
        assert_eq!(Epochs::Best.of(3, None), [0; 0]);
    }

    #[test]
    fn an_epoch_that_training_does_not_have_is_a_problem() {
        assert_eq!(Epochs::Only(vec![1, 4]).problems("epochs", Some(3)).len(), 1);
        assert!(Epochs::Only(vec![1, 3]).problems("epochs", Some(3)).is_empty());
    }
}
