//! Settings of a training that are right alone and not together.

use crate::{
    adapter::parameters::Method,
    checkpoint::Component,
    problem::Problem,
    train::{
        density::Density,
        init::Init,
        loss::{DeltaSchedule, Loss, Target},
        optimizer::Optimizer,
        parameters::{Checkpointing, EncoderDropout, Train, WeightType},
        schedule::Schedule,
        weighting::Weighting,
    },
};

impl Train {
    /// Options that contradict each other, do nothing beside each other, or do the same thing twice.
    pub(super) fn contradictions(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |refused: bool, field: &str, message: &str, hint: &str| {
            if refused {
                problems.push(Problem::new(field, message).hint(hint));
            }
        };
        let lora = matches!(self.method, Method::LoRA(_));
        let prodigy = matches!(self.optimizer, Optimizer::Prodigy(_));
        let schedule_free = matches!(self.optimizer, Optimizer::AdamWScheduleFree(_));
        let by_blocks = self.checkpointing == Checkpointing::Blocks;
        refuse(
            self.stratified && u64::from(self.batch) * u64::from(self.accumulate) == 1,
            "stratified",
            "has no effect with one sample in a step",
            "raise `batch` or `accumulate`, or leave it out",
        );
        refuse(
            (self.target, self.weighting, self.loss) == (Target::X0, Weighting::SigmaSqrt, Loss::L2),
            "weighting",
            "`SigmaSqrt` takes back just what `target: X0` does",
            "target: Velocity without a weighting is the same",
        );
        refuse(
            (self.density, self.weighting) == (Density::CosMap, Weighting::CosMap),
            "weighting",
            "`CosMap` counts what `density: CosMap` has counted already",
            "either of them alone",
        );
        refuse(
            self.loss == Loss::Huber { delta: 1.0, schedule: DeltaSchedule::Exponential },
            "loss.schedule",
            "has no effect on a `delta` of 1, which it comes from",
            "Huber(delta: 0.1, schedule: Exponential)",
        );
        refuse(
            self.optimizer.finds_its_rate() && self.learning_rate < 0.1,
            "learning_rate",
            "this optimizer finds the size of its steps, and the learning rate is a factor of it",
            "learning_rate: 1.0",
        );
        refuse(
            schedule_free && !matches!(self.schedule, Schedule::Constant { .. }),
            "schedule",
            "AdamWScheduleFree averages the weights in a falling learning rate's place",
            "schedule: Constant(), with a warm-up if you like",
        );
        refuse(
            prodigy && self.groups.iter().any(|group| group.learning_rate != 1.0),
            "groups",
            "Prodigy finds one learning rate for all tensors",
            "leave learning_rate out of the groups",
        );
        refuse(
            matches!(&self.optimizer, Optimizer::Adafactor(adafactor) if adafactor.warmup_init && !adafactor.relative_step),
            "optimizer.warmup_init",
            "it has no effect without relative_step",
            "leave it out, or add relative_step: true",
        );
        refuse(
            self.stop.is_some() && self.validation.is_none(),
            "stop",
            "only validation can tell that a training gets no better",
            "add validation: (share: 0.1)",
        );
        refuse(
            self.average.is_some() && schedule_free,
            "average",
            "AdamWScheduleFree averages the weights already, and its average is what is exported",
            "leave it out",
        );
        refuse(
            lora && self.init != Init::Model,
            "init",
            "an adapter's files are for the pipeline's model, and are of no use on other weights",
            "export the checkpoint that it is to start from, and name that as the pipeline's `model`",
        );
        refuse(
            lora && !self.freeze.is_empty(),
            "freeze",
            "an adapter leaves all of the model's weights as they are",
            "choose by `targets` and `blocks`",
        );
        refuse(
            lora && self.weights != WeightType::F32,
            "weights",
            "an adapter is small, and is kept in 32 bits",
            "leave it out; the model's weights beside it are in `precision`",
        );
        let clips: Vec<Component> = match &self.method {
            Method::LoRA(lora) => lora.clips().collect(),
            Method::Full => Vec::new(),
        };
        let EncoderDropout { clip_l, clip_g, .. } = self.encoder_dropout;
        for (clip, field, rate) in
            [(Component::ClipL, "encoder_dropout.clip_l", clip_l), (Component::ClipG, "encoder_dropout.clip_g", clip_g)]
        {
            refuse(
                clips.contains(&clip) && rate == 1.0,
                field,
                "nothing is seen of the encoder, and its adapter would learn nothing",
                "a lower rate, or leave its layers out of `targets`",
            );
        }
        refuse(self.fused_step && !by_blocks, "fused_step", "it goes block by block", "add checkpointing: Blocks");
        refuse(
            self.fused_step && self.accumulate > 1,
            "fused_step",
            "gradients that are added up over batches can't be freed in between",
            "accumulate: 1, or fused_step: false",
        );
        refuse(
            self.fused_step && prodigy,
            "fused_step",
            "Prodigy must see all gradients before it moves a weight",
            "fused_step: false, or another optimizer",
        );
        refuse(self.block_swap > 0 && !by_blocks, "block_swap", "it goes block by block", "add checkpointing: Blocks");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let train: Train = ron::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        train.problems().into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn options_without_effect_are_refused_and_their_neighbours_are_not() {
        for (text, field) in [
            ("(stratified: true)", "stratified"),
            ("(target: X0, weighting: SigmaSqrt)", "weighting"),
            ("(density: CosMap, weighting: CosMap)", "weighting"),
            ("(loss: Huber(schedule: Exponential))", "loss.schedule"),
            ("(max_timestep: 1001)", "max_timestep"),
            ("(min_timestep: 500, max_timestep: 500)", "max_timestep"),
            ("(density: Mode(scale: 1.8))", "density.scale"),
            ("(loss: Huber(delta: 0))", "loss.delta"),
            ("(loss: SmoothL1(beta: 0))", "loss.beta"),
            ("(schedule: Linear(minimum_ratio: 2))", "schedule.minimum_ratio"),
        ] {
            assert_eq!(problems(text), [field], "{text}");
        }
        for text in [
            "()",
            "(stratified: true, batch: 2)",
            "(stratified: true, accumulate: 4)",
            "(target: X0, weighting: SigmaSqrt, loss: L1)",
            "(target: X0, weighting: CosMap)",
            "(density: Uniform, weighting: CosMap)",
            "(density: CosMap, weighting: None)",
            "(loss: Huber(delta: 0.1, schedule: Exponential))",
            "(min_timestep: 999)",
            "(density: Mode())",
        ] {
            assert!(problems(text).is_empty(), "{text}: {:?}", problems(text));
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (settings, field) in [
            ("(optimizer: Prodigy(()))", "learning_rate"),
            ("(optimizer: Adafactor((relative_step: true)))", "learning_rate"),
            ("(optimizer: Adafactor((warmup_init: true)))", "optimizer.warmup_init"),
            ("(optimizer: AdamWScheduleFree(()))", "schedule"),
            ("(optimizer: Lion((beta2: 1.5)))", "optimizer.beta2"),
            ("(optimizer: Prodigy(()), learning_rate: 1.0, groups: [(match: \"*\", learning_rate: 0.5)])", "groups"),
            ("(fused_step: true)", "fused_step"),
            ("(fused_step: true, checkpointing: Blocks, accumulate: 2)", "fused_step"),
            ("(fused_step: true, checkpointing: Blocks, optimizer: Prodigy(()), learning_rate: 1.0)", "fused_step"),
            ("(block_swap: 2)", "block_swap"),
            ("(method: LoRA(()), init: File(\"x\"))", "init"),
            ("(method: LoRA(()), freeze: [\"*\"])", "freeze"),
            ("(method: LoRA(()), weights: Bf16Stochastic)", "weights"),
            ("(method: LoRA((targets: [ClipGAttention])), encoder_dropout: (clip_g: 1.0))", "encoder_dropout.clip_g"),
            ("(stop: Some(()))", "stop"),
            ("(stop: Some((patience: 0)), validation: Some(()))", "stop.patience"),
            ("(stop: Some((minimum: -1)), validation: Some(()))", "stop.minimum"),
            ("(validation: Some((share: 0)))", "validation.share"),
            ("(validation: Some((share: 1)))", "validation.share"),
            ("(validation: Some((every: 0)))", "validation.every"),
            ("(validation: Some((noises: 0)))", "validation.noises"),
            ("(validation: Some((timesteps: [])))", "validation.timesteps"),
            ("(validation: Some((timesteps: [0])))", "validation.timesteps"),
            ("(validation: Some((timesteps: [5, 5])))", "validation.timesteps"),
            ("(average: Some((decay: 1.1)))", "average.decay"),
            ("(average: Some((warmup: Power(power: 2))))", "average.warmup.power"),
            ("(average: Some(()), optimizer: AdamWScheduleFree(()), schedule: Constant())", "average"),
        ] {
            assert_eq!(problems(settings), [field], "{settings}");
        }
        for settings in [
            "()",
            "(optimizer: Prodigy(()), learning_rate: 1.0)",
            "(method: LoRA((targets: [ClipGAttention])), encoder_dropout: (clip_l: 1.0, clip_g: 0.9))",
            "(method: LoRA(()), checkpointing: Blocks, fused_step: true, optimizer: AdamW8bit(()))",
            "(optimizer: AdamWScheduleFree(()), schedule: Constant(warmup: 3))",
            "(validation: Some((timesteps: [1, 1000])), stop: Some((patience: 1)), average: Some((decay: 0.5)))",
            "(fused_step: true, checkpointing: Blocks, block_swap: 2, optimizer: AdamW8bit(()), weights: Bf16Stochastic)",
        ] {
            assert!(problems(settings).is_empty(), "{settings}");
        }
    }
}
