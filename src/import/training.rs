//! The stages that train and export.

use super::{
    adapter,
    data::Data,
    objective, optimizer,
    options::Trainer,
    reader::Reader,
    schedule,
    text::{Bracket, number},
};

/// The length of a training.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub epochs: u32,
    /// Optimizer steps of an epoch, where the pictures could be counted.
    pub steps: Option<u64>,
    /// GPUs that it ran on.
    pub processes: u32,
}

/// The type that a training computes in.
pub fn precision(reader: &mut Reader<'_>) -> &'static str {
    match reader.text("mixed_precision").as_deref() {
        Some("bf16" | "fp16") => "Bf16",
        Some("no") | None => "F32",
        Some(_) => {
            reader.refuse(
                format!("{}: there is no such precision", reader.written("mixed_precision")),
                "bf16, fp16 or no",
            );
            "F32"
        }
    }
}

/// The stage that trains, and how long it does.
pub fn stage(reader: &mut Reader<'_>, data: &Data) -> (Bracket, Length) {
    let mut train = Bracket::new("Train");
    let lora = reader.arguments.trainer == Trainer::Lora;
    let processes = reader.arguments.processes.or(reader.circumstances.processes).unwrap_or(1).max(1);
    let accumulate = reader.number::<u32>("gradient_accumulation_steps").unwrap_or(1).max(1);
    let batch = data.batch.value.max(1);
    let steps = data
        .samples
        .map(|samples| samples.div_ceil(batch.into()).div_ceil(processes.into()).div_ceil(accumulate.into()).max(1));
    let optimizer = optimizer::read(reader);
    let rate = optimizer.rate.clone().unwrap_or_else(|| {
        let name = if lora && reader.text("unet_lr").is_some() { "unet_lr" } else { "learning_rate" };
        (reader.number::<f64>(name).unwrap_or(2e-6), reader.source(name))
    });
    let groups = match lora {
        true => {
            let (method, groups) = adapter::read(reader, rate.0);
            let module = reader.all_written(&["network_module", "network_train_unet_only"]);
            train.field("method", method).from(module);
            groups
        }
        false => Vec::new(),
    };
    let length = Length { epochs: epochs(reader, &mut train, steps), steps, processes };
    train.field("batch", &batch).from(&*data.batch.source);
    let accumulated = accumulate.saturating_mul(processes);
    if accumulated > 1 {
        let written = reader.written("gradient_accumulation_steps");
        let source = match (accumulate, processes) {
            (_, 1) => written,
            _ => {
                let pictures = accumulated.saturating_mul(batch);
                format!("{written} on {processes} GPUs: the same mean over {pictures} pictures a step")
            }
        };
        train.field("accumulate", &accumulated).from(source.trim_start());
    }
    match reader.number::<u64>("seed") {
        Some(seed) => drop(train.field("seed", &seed).from(reader.written("seed"))),
        None => drop(train.field("seed", &42).from("without --seed every run there is another; here none is")),
    }
    train.field("learning_rate", &number(rate.0)).from(rate.1);
    schedule::write(reader, &mut train, &optimizer, length, rate.0);
    optimizer.write(&mut train);
    if !groups.is_empty() {
        let source = match reader.written("text_encoder_lr") {
            none if none.is_empty() && !reader.written("unet_lr").is_empty() => reader.written("learning_rate"),
            written => written,
        };
        train.field("groups", groups).from(source).note("Each rate is a factor of `learning_rate`.");
    }
    types(reader, &mut train, lora);
    objective::write(reader, &mut train, batch);
    dropout(reader, &mut train, data);
    if let Some(weight) = reader.number::<f64>("prior_loss_weight") {
        let source = reader.written("prior_loss_weight");
        match data.regularises() {
            true => drop(train.field("prior_loss_weight", &number(weight)).from(source)),
            false => reader.no_effect("prior_loss_weight", "there are no regularisation images"),
        }
    }
    validation(reader, &mut train, data, lora);
    let norm = reader.number::<f64>("max_grad_norm").unwrap_or(1.0);
    train.field("max_gradient_norm", &number(norm)).from(reader.source("max_grad_norm"));
    memory(reader, &mut train, accumulated);
    (train, length)
}

/// The number of epochs, which steps come to only where pictures are counted.
fn epochs(reader: &mut Reader<'_>, train: &mut Bracket, steps: Option<u64>) -> u32 {
    if let Some(epochs) = reader.number::<u32>("max_train_epochs") {
        train.field("epochs", &epochs).from(reader.written("max_train_epochs"));
        reader.no_effect("max_train_steps", "--max_train_epochs counts");
        return epochs;
    }
    let all = reader.number::<u64>("max_train_steps").unwrap_or(1600);
    let source = reader.source("max_train_steps");
    let Some(steps) = steps else {
        let message =
            format!("{source}: how many epochs {all} steps are can't be told, as the pictures can't be counted");
        reader.refuse(message, "import where the folders of pictures are (--folder says where paths start from), or add --max_train_epochs");
        return 1;
    };
    let epochs = u32::try_from(all.saturating_add(steps / 2) / steps).unwrap_or(u32::MAX).max(1);
    let trained = u64::from(epochs).saturating_mul(steps);
    let note = match trained == all {
        true => format!("{all} steps of {steps} an epoch."),
        false => format!(
            "{all} steps are {:.2} epochs of about {steps} steps; a training here ends with an epoch: {trained} steps.",
            all as f64 / steps as f64
        ),
    };
    train.field("epochs", &epochs).from(source).note(note);
    epochs
}

/// The types that are computed and kept in.
fn types(reader: &mut Reader<'_>, train: &mut Bracket, lora: bool) {
    let precision = precision(reader);
    let source = match reader.written("mixed_precision") {
        written if written.is_empty() => "without --mixed_precision".to_owned(),
        written => written,
    };
    let added = train.field("precision", &precision).from(&*source);
    if source.ends_with("fp16") {
        added.note("Gradients of SD3 underflow in fp16; bf16 has the range of 32 bits.");
    }
    let (bf16, fp16) = (reader.switch("full_bf16"), reader.switch("full_fp16"));
    let full = reader.all_written(&["full_bf16", "full_fp16"]);
    match (lora, bf16 || fp16) {
        (true, true) => {
            for name in ["full_bf16", "full_fp16"] {
                reader.instead(name, "an adapter is small, and is kept in 32 bits");
            }
        }
        (false, true) => drop(train.field("weights", &"Bf16Stochastic").from(full).note(
            "There updates were rounded to the nearest, which loses the small ones; here by chance, so that their mean is right.",
        )),
        (false, false) => drop(train.field("weights", &"F32").note(
            "There the weights stayed in the type of the model's file, usually 16 bits, and lost small updates. `Bf16Stochastic` loses none \
             in half the memory.",
        )),
        (true, false) => {}
    }
}

fn dropout(reader: &mut Reader<'_>, train: &mut Bracket, data: &Data) {
    if data.dropout().value > 0.0 {
        let added = train.field("caption_dropout", &number(data.dropout().value)).from(&*data.dropout().source);
        if data.cached {
            added.note("sd-scripts refuses this beside cached texts; here the encoding of the empty prompt takes the caption's place.");
        }
    }
    let mut encoders = Bracket::new("");
    for (field, name) in
        [("clip_l", "clip_l_dropout_rate"), ("clip_g", "clip_g_dropout_rate"), ("t5", "t5_dropout_rate")]
    {
        if let Some(rate) = reader.number::<f64>(name).filter(|rate| *rate > 0.0) {
            encoders.field(field, &number(rate)).from(reader.written(name));
        }
    }
    if !encoders.is_empty() {
        train.field("encoder_dropout", encoders);
    }
}

fn validation(reader: &mut Reader<'_>, train: &mut Bracket, data: &Data, lora: bool) {
    let every = reader.number::<u32>("validate_every_n_epochs");
    let Some(share) = data.validation.as_ref() else {
        return reader.no_effect("validate_every_n_epochs", "there is no --validation_split");
    };
    if !lora {
        return reader.remark(format!(
            "{}: had no effect: sd3_train.py validates nothing. Here: validation: (share: {}).",
            share.source, share.value
        ));
    }
    let mut validation = Bracket::new("");
    validation.field("share", &number(share.value)).from(&*share.source);
    if let Some(every) = every.filter(|every| *every > 0) {
        validation.field("every", &every).from(reader.written("validate_every_n_epochs"));
    }
    train
        .field("validation", validation)
        .note("Each picture's bytes decide whether it is held out: none changes sides when others come or go.");
}

/// What saves memory.
fn memory(reader: &mut Reader<'_>, train: &mut Bracket, accumulate: u32) {
    let checkpointing = reader.switch("gradient_checkpointing");
    let swapped = reader.number::<u32>("blocks_to_swap").filter(|count| *count > 0);
    let fused = reader.switch("fused_backward_pass") | reader.switch("blockwise_fused_optimizers");
    let written = reader.all_written(&["fused_backward_pass", "blockwise_fused_optimizers"]);
    let fuses = fused && accumulate == 1;
    if checkpointing {
        train.field("checkpointing", &"Blocks").from("--gradient_checkpointing");
    } else if swapped.is_some() || fuses {
        train.field("checkpointing", &"Blocks").from("what follows goes block by block");
    }
    if let Some(count) = swapped {
        train.field("block_swap", &count).from(reader.written("blocks_to_swap"));
    }
    if fuses {
        train.field("fused_step", &true).from(written).note(
            "There each tensor's gradient was scaled down by itself; here all by their norm together, in a first pass that max_gradient_norm: 0 \
             saves.",
        );
    } else if fused {
        reader.remark(format!("{written}: left out: gradients that are added up over {accumulate} batches can't be freed in between. It changes no result."));
    }
}

/// The stage that exports.
pub fn export(reader: &mut Reader<'_>, length: Length) -> Bracket {
    let mut export = Bracket::new("Export");
    let lora = reader.arguments.trainer == Trainer::Lora;
    let (count, source) = every(reader, length);
    let kept = reader.number::<u32>("save_last_n_epochs").filter(|_| count > 0);
    let chosen = match (count, kept) {
        (0, _) => "Last".to_owned(),
        (_, Some(kept)) => {
            // More epochs are refused by the pipeline.
            let saved: Vec<u32> = (1..length.epochs.min(10_000)).filter(|epoch| epoch % count == 0).collect();
            let first = saved.len().saturating_sub(kept as usize);
            let list: Vec<String> = saved[first..].iter().chain([&length.epochs]).map(u32::to_string).collect();
            format!("Only([{}])", list.join(", "))
        }
        (1, None) => "All".to_owned(),
        (count, None) => format!("Every({count})"),
    };
    let source = [source, reader.written("save_last_n_epochs")].join(" ");
    export.field("epochs", &chosen).from(source.trim());
    let (precision, source) = match reader.text("save_precision").as_deref() {
        Some("fp16") => ("F16", reader.written("save_precision")),
        Some("bf16") => ("Bf16", reader.written("save_precision")),
        Some("float") => ("F32", reader.written("save_precision")),
        Some(_) => {
            reader.refuse(
                format!("{}: there is no such precision", reader.written("save_precision")),
                "float, fp16 or bf16",
            );
            ("F16", String::new())
        }
        None if reader.switch("full_bf16") => ("Bf16", "without --save_precision that of --full_bf16".to_owned()),
        None if lora && !reader.switch("full_fp16") => ("F32", "without --save_precision".to_owned()),
        None => ("F16", "without --save_precision as in the model's file".to_owned()),
    };
    export.field("precision", &precision).from(source);
    if lora {
        export
            .field("lora", &"Kohya")
            .from("a file as sd-scripts writes it; `Both` adds one for diffusers, which can't read these");
    }
    export
}

/// After how many epochs a checkpoint is saved, 0 for the last alone, and who says so.
fn every(reader: &mut Reader<'_>, length: Length) -> (u32, String) {
    if let Some(ratio) = reader.number::<u32>("save_n_epoch_ratio").filter(|ratio| *ratio > 0) {
        reader.no_effect("save_every_n_epochs", "--save_n_epoch_ratio counts");
        return ((length.epochs / ratio).max(1), reader.written("save_n_epoch_ratio"));
    }
    if let Some(count) = reader.number::<u32>("save_every_n_epochs").filter(|count| *count > 0) {
        if reader.switch("save_every_n_steps") {
            reader.instead("save_every_n_steps", "checkpoints are of whole epochs");
        }
        return (count, reader.written("save_every_n_epochs"));
    }
    match reader.number::<u64>("save_every_n_steps").filter(|count| *count > 0) {
        Some(count) => {
            let epochs = length.steps.map_or(1, |steps| (count.saturating_add(steps / 2) / steps).max(1) as u32);
            (
                epochs.min(length.epochs),
                format!("{}: checkpoints are of whole epochs", reader.written("save_every_n_steps")),
            )
        }
        None => (0, "without --save_every_n_epochs".to_owned()),
    }
}
