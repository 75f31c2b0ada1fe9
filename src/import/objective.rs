//! What is minimised: density and weights of the levels of noise, and the loss.

use super::{
    reader::Reader,
    text::{Bracket, Value, number},
};

/// The day on which sd-scripts' defaults became a uniform density without a shift.
const UNIFORM_SINCE: &str = "2024-11-07";

/// Writes the fields of the loss.
pub fn write(reader: &mut Reader<'_>, train: &mut Bracket, batch: u32) {
    let old = reader.before(UNIFORM_SINCE);
    let default = if old { "logit_normal" } else { "uniform" };
    let since = if old {
        "what it was before November 2024"
    } else {
        "sd-scripts' default since November 2024; SD3's own is LogitNormal()"
    };
    let scheme = reader.text("weighting_scheme");
    let source = if scheme.is_some() { reader.written("weighting_scheme") } else { since.to_owned() };
    let scheme = scheme.unwrap_or_else(|| default.to_owned());
    for (name, of) in [("logit_mean", "logit_normal"), ("logit_std", "logit_normal"), ("mode_scale", "mode")] {
        if scheme != of {
            reader.no_effect(name, format!("it is of --weighting_scheme {of}"));
        }
    }
    match scheme.as_str() {
        "logit_normal" => {
            let mean = reader.number::<f64>("logit_mean").unwrap_or(0.0);
            let deviation = reader.number::<f64>("logit_std").unwrap_or(1.0);
            let source = [source, reader.all_written(&["logit_mean", "logit_std"])].join(" ");
            let (signed, turned) = if old && mean != 0.0 { (-mean, true) } else { (mean, false) };
            let text = format!("LogitNormal(mean: {}, standard_deviation: {})", number(signed), number(deviation));
            let added = train.field("density", &text).from(source.trim());
            if turned {
                added.note(
                    "Before November 2024 a positive mean drew cleaner levels; here, as since then, noisier ones.",
                );
            }
        }
        "mode" => {
            let scale = reader.number::<f64>("mode_scale").unwrap_or(1.29);
            let source = [source, reader.written("mode_scale")].join(" ");
            train.field("density", &format!("Mode(scale: {})", number(scale))).from(source.trim());
        }
        "uniform" | "none" | "sigma_sqrt" | "cosmap" => {
            train.field("density", &"Uniform").from(&*source);
        }
        _ => reader.refuse(
            format!("{source}: there is no such scheme"),
            "uniform, logit_normal, mode, sigma_sqrt, cosmap or none",
        ),
    }
    let (shift, source) = match reader.number::<f64>("training_shift") {
        Some(shift) => (shift, reader.written("training_shift")),
        None if old => (3.0, "what it was before November 2024".to_owned()),
        None => (1.0, "sd-scripts' default since November 2024; SD3 was made with 3".to_owned()),
    };
    train.field("shift", &number(shift)).from(source);
    for name in ["min_timestep", "max_timestep"] {
        if let Some(timestep) = reader.number::<u32>(name) {
            train.field(name, &timestep).from(reader.written(name));
        }
    }
    let loss = loss(reader);
    let weighted = matches!(scheme.as_str(), "sigma_sqrt" | "cosmap");
    let averaged = "There the weights of a batch were averaged; here each picture has its own.";
    let averages = weighted && batch > 1 && reader.arguments.trainer == super::options::Trainer::Full;
    match (scheme.as_str(), &loss) {
        ("sigma_sqrt", None) => {
            let added = train.field("target", &"Velocity").from("--weighting_scheme sigma_sqrt");
            let added = added.note(
                "It takes back just the weight that comparing clean pictures brings, so that velocities count alike.",
            );
            if averages {
                added.note(averaged);
            }
        }
        _ => {
            train.field("target", &"X0").note(
                "sd-scripts compares clean pictures, so noisy levels count more, by sigma². `Velocity` is what SD3 was made with.",
            );
            if weighted {
                let value = if scheme == "cosmap" { "CosMap" } else { "SigmaSqrt" };
                let added = train.field("weighting", &value).from(reader.written("weighting_scheme"));
                if averages {
                    added.note(averaged);
                }
            }
        }
    }
    if let Some(loss) = loss {
        let source = reader.all_written(&["loss_type", "huber_schedule", "huber_c", "huber_scale"]);
        train.field("loss", loss).from(source).note(
            "Of nearly the form of sd-scripts', but for a constant factor, which the step of an optimizer such as AdamW does not feel.",
        );
    }
}

/// The loss, but for the square.
fn loss(reader: &mut Reader<'_>) -> Option<Value> {
    let kind = reader.text("loss_type").unwrap_or_else(|| "l2".to_owned());
    let bent = matches!(kind.as_str(), "huber" | "smooth_l1");
    for name in ["huber_schedule", "huber_c", "huber_scale"] {
        if !bent {
            reader.no_effect(name, "it is of --loss_type huber or smooth_l1");
        }
    }
    if !bent {
        return match kind.as_str() {
            "l2" => None,
            "l1" => Some((&"L1").into()),
            _ => {
                reader.refuse(format!("--loss_type {kind}: there is no such loss"), "l2, l1, huber or smooth_l1");
                None
            }
        };
    }
    let place = reader.number::<f64>("huber_c").unwrap_or(0.1);
    let scale = reader.number::<f64>("huber_scale").unwrap_or(1.0);
    let schedule = reader.text("huber_schedule").unwrap_or_else(|| "snr".to_owned());
    match (kind.as_str(), schedule.as_str()) {
        ("huber", "constant") => Some((&format!("Huber(delta: {})", number(place * scale))).into()),
        ("huber", "exponential") if scale == 1.0 => {
            Some((&format!("Huber(delta: {}, schedule: Exponential)", number(place))).into())
        }
        ("smooth_l1", "constant") => Some((&format!("SmoothL1(beta: {})", number(place * scale))).into()),
        (_, "snr") => {
            let message = "--huber_schedule snr, the default, ends in an error on SD3: its flow has no signal-to-noise ratio of that kind";
            reader.refuse(message, "--huber_schedule constant");
            None
        }
        _ => {
            let written = reader.all_written(&["loss_type", "huber_schedule", "huber_scale"]);
            reader.refuse(format!("{written}: there is no such loss here"), "--huber_schedule constant");
            None
        }
    }
}
