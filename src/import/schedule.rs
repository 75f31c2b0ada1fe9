//! How the learning rate moves.

use super::{
    optimizer::Chosen,
    reader::Reader,
    text::{Bracket, number},
    training::Length,
};

const OPTIONS: [&str; 7] = [
    "lr_scheduler",
    "lr_warmup_steps",
    "lr_decay_steps",
    "lr_scheduler_num_cycles",
    "lr_scheduler_power",
    "lr_scheduler_timescale",
    "lr_scheduler_min_lr_ratio",
];

/// Writes the schedule.
pub fn write(reader: &mut Reader<'_>, train: &mut Bracket, optimizer: &Chosen, length: Length, rate: f64) {
    if let Some((schedule, why)) = &optimizer.schedule {
        for name in OPTIONS {
            reader.no_effect(name, why);
        }
        train.field("schedule", schedule).from(&**why);
        return;
    }
    let name = reader.text("lr_scheduler").unwrap_or_else(|| "constant".to_owned());
    let used: &[&str] = match name.as_str() {
        "constant_with_warmup" | "linear" | "cosine" | "constant" => &[],
        "cosine_with_restarts" => &["lr_scheduler_num_cycles"],
        "polynomial" => &["lr_scheduler_power"],
        "inverse_sqrt" => &["lr_scheduler_timescale"],
        "cosine_with_min_lr" => &["lr_scheduler_num_cycles", "lr_scheduler_min_lr_ratio"],
        "warmup_stable_decay" => &["lr_decay_steps", "lr_scheduler_num_cycles", "lr_scheduler_min_lr_ratio"],
        _ => {
            let instead = "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt, cosine_with_min_lr \
                           or warmup_stable_decay";
            return reader.refuse(format!("--lr_scheduler {name}: there is no such schedule here"), instead);
        }
    };
    for option in &OPTIONS[2..] {
        if !used.contains(option) {
            reader.no_effect(option, format!("--lr_scheduler {name} does not ask for it"));
        }
    }
    let mut fields = Vec::new();
    let mut notes = Vec::new();
    let warmup = span(reader, "lr_warmup_steps", length, &mut notes);
    fields.extend(warmup.as_ref().map(|warmup| format!("warmup: {warmup}")));
    if name == "constant" && warmup.is_some() {
        notes.push("sd-scripts refuses a warm-up of `constant`: it is `constant_with_warmup`.".to_owned());
    }
    let ratio = reader.number::<f64>("lr_scheduler_min_lr_ratio").filter(|ratio| *ratio != 0.0);
    let cycles = reader.number::<u32>("lr_scheduler_num_cycles").unwrap_or(1);
    let of_ratio = ratio.map(|ratio| format!("minimum_ratio: {}", number(ratio)));
    let kind = match name.as_str() {
        "linear" => "Linear",
        "cosine" => "Cosine",
        "cosine_with_restarts" => {
            fields.push(format!("cycles: {cycles}"));
            if cycles == 1 {
                notes.push("With one cycle it is just a half cosine.".to_owned());
            }
            "CosineWithRestarts"
        }
        "polynomial" => {
            let power = reader.number::<f64>("lr_scheduler_power").unwrap_or(1.0);
            fields.push(format!("power: {}, minimum_ratio: {}", number(power), number(1e-7 / rate)));
            "Polynomial"
        }
        "inverse_sqrt" => {
            let steps = reader.number::<u64>("lr_scheduler_timescale");
            fields.extend(steps.map(|steps| format!("timescale: {}", of_updates(steps, length, &mut notes))));
            "InverseSqrt"
        }
        "cosine_with_min_lr" | "warmup_stable_decay" => {
            if cycles != 1 {
                let written = reader.written("lr_scheduler_num_cycles");
                reader
                    .refuse(format!("{written}: {name} falls once here"), "1, or --lr_scheduler cosine_with_restarts");
            }
            match name.as_str() {
                "cosine_with_min_lr" => {
                    if ratio.is_none() {
                        reader
                            .refuse("--lr_scheduler cosine_with_min_lr needs --lr_scheduler_min_lr_ratio", "0.1, say");
                    }
                    fields.extend(of_ratio);
                    "Cosine"
                }
                _ => {
                    let decay = span(reader, "lr_decay_steps", length, &mut notes);
                    fields.push(format!("decay: {}", decay.unwrap_or_else(|| "0".to_owned())));
                    fields.extend(of_ratio);
                    "WarmupStableDecay"
                }
            }
        }
        _ => "Constant",
    };
    let source = match reader.all_written(&OPTIONS) {
        written if written.is_empty() => "sd-scripts' default".to_owned(),
        _ => reader.all_written(&[&["lr_scheduler", "lr_warmup_steps"], used].concat()),
    };
    let mut added = train.field("schedule", &format!("{kind}({})", fields.join(", "))).from(source);
    for note in notes {
        added = added.note(note);
    }
}

/// A number of steps, or a share of them: below 1, or with a `%`. Nothing when it is 0.
fn span(reader: &mut Reader<'_>, name: &'static str, length: Length, notes: &mut Vec<String>) -> Option<String> {
    let text = reader.text(name)?;
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.parse::<f64>().ok(),
    };
    match share {
        Some(0.0) => None,
        Some(share) if share < 1.0 => Some(format!("Share({})", number(share))),
        Some(steps) if !text.ends_with('%') => Some(of_updates(steps as u64, length, notes).to_string()),
        Some(share) => Some(format!("Share({})", number(share))),
        None => {
            reader.refuse(format!("{} is no number of steps and no share", reader.written(name)), "100, or 0.05");
            None
        }
    }
}

/// The updates that steps of a schedule are: on several GPUs accelerate takes as many of them at each update.
fn of_updates(steps: u64, length: Length, notes: &mut Vec<String>) -> u64 {
    let processes = u64::from(length.processes);
    if processes > 1 {
        let note = format!(
            "On {processes} GPUs sd-scripts' schedule goes {processes} steps at each update, so that {steps} of them are fewer."
        );
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    steps.div_ceil(processes)
}
