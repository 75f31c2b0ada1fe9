//! The optimizer and its arguments.

use super::{
    reader::Reader,
    text::{Bracket, number},
};
use crate::pipeline::suggestion;
use indexmap::IndexMap;

/// What turns gradients into updates.
pub struct Chosen {
    bracket: Bracket,
    source: String,
    notes: Vec<&'static str>,
    /// The learning rate, where the optimizer has one of its own, and why.
    pub rate: Option<(f64, String)>,
    /// The schedule, where the optimizer has one of its own, and why.
    pub schedule: Option<(String, String)>,
}

/// A value as Python writes it.
enum Literal {
    Nothing,
    Switch(bool),
    Numbers(Vec<f64>),
}

/// An optimizer of sd-scripts, in lower case; ours; and what else there is to say.
const NAMES: [(&str, &str, &str); 11] = [
    ("adafactor", "Adafactor", ""),
    ("adamw", "AdamW", ""),
    ("adamw8bit", "AdamW8bit", ""),
    ("pagedadamw", "AdamW", PAGED),
    ("pagedadamw32bit", "AdamW", PAGED),
    ("pagedadamw8bit", "AdamW8bit", PAGED),
    ("lion", "Lion", ""),
    ("lion8bit", "Lion", "Its state is in 32 bits here."),
    ("pagedlion8bit", "Lion", "Its state is in 32 bits here; `block_swap` keeps states in the host's memory."),
    ("prodigy", "Prodigy", ""),
    ("adamwschedulefree", "AdamWScheduleFree", ""),
];
const PAGED: &str =
    "There states went to the host's memory where the GPU's was full; here `block_swap` keeps them there.";

/// Modules of which people name the classes in full.
const MODULES: [&str; 7] = [
    "torch.optim.",
    "bitsandbytes.optim.",
    "lion_pytorch.",
    "prodigyopt.",
    "schedulefree.",
    "transformers.optimization.",
    "transformers.",
];

/// An argument, and the fields that it becomes.
type Argument = (&'static str, &'static [&'static str]);

const BETAS: Argument = ("betas", &["beta1", "beta2"]);
const EPS: Argument = ("eps", &["epsilon"]);
const DECAY: Argument = ("weight_decay", &["weight_decay"]);

fn arguments(name: &str) -> Vec<Argument> {
    const PRODIGY: [Argument; 8] = [
        ("beta3", &["beta3"]),
        ("decouple", &["decouple"]),
        ("use_bias_correction", &["use_bias_correction"]),
        ("safeguard_warmup", &["safeguard_warmup"]),
        ("d0", &["d0"]),
        ("d_coef", &["d_coef"]),
        ("growth_rate", &["growth_rate"]),
        EPS,
    ];
    const ADAFACTOR: [Argument; 7] = [
        ("eps", &["epsilon1", "epsilon2"]),
        ("clip_threshold", &["clip_threshold"]),
        ("decay_rate", &["decay_rate"]),
        ("beta1", &["beta1"]),
        ("scale_parameter", &["scale_parameter"]),
        ("relative_step", &["relative_step"]),
        ("warmup_init", &["warmup_init"]),
    ];
    match name {
        "Adafactor" => [&ADAFACTOR[..], &[DECAY]].concat(),
        "Lion" => vec![BETAS, DECAY],
        "Prodigy" => [&[BETAS, DECAY], &PRODIGY[..]].concat(),
        "AdamWScheduleFree" => vec![BETAS, EPS, DECAY, ("r", &["r"]), ("weight_lr_power", &["weight_lr_power"])],
        _ => vec![BETAS, EPS, DECAY],
    }
}

/// Arguments that change how fast an optimizer is, or where its states lie.
const TUNING: [&str; 10] = [
    "block_wise",
    "capturable",
    "foreach",
    "fsdp_in_use",
    "fused",
    "is_paged",
    "min_8bit_size",
    "optim_bits",
    "percentile_clipping",
    "use_triton",
];

/// Reads which optimizer it is, and how it is set.
pub fn read(reader: &mut Reader<'_>) -> Chosen {
    let written = reader.text("optimizer_type");
    let (name, source) = match written {
        Some(name) => (name, reader.written("optimizer_type")),
        None if reader.switch("use_8bit_adam") => ("AdamW8bit".to_owned(), "--use_8bit_adam".to_owned()),
        None if reader.switch("use_lion_optimizer") => ("Lion".to_owned(), "--use_lion_optimizer".to_owned()),
        None => ("AdamW".to_owned(), "sd-scripts' default of --optimizer_type".to_owned()),
    };
    let given = reader.list("optimizer_args").unwrap_or_default();
    let source = [source, reader.written("optimizer_args")].join(" ").trim().to_owned();
    let bare = MODULES.iter().find_map(|module| name.strip_prefix(module)).unwrap_or(&name).to_lowercase();
    let known = NAMES.iter().find(|(known, ..)| *known == bare);
    let mut chosen = Chosen { bracket: Bracket::new(""), source, notes: Vec::new(), rate: None, schedule: None };
    let Some(&(_, ours, note)) = known else {
        let instead = match bare.starts_with("dadapt") {
            true => "--optimizer_type Prodigy --learning_rate 1, which finds its rate too",
            false => "AdamW, AdamW8bit, Adafactor, Lion, Prodigy or AdamWScheduleFree",
        };
        reader.refuse(format!("--optimizer_type {name}: there is no such optimizer here"), instead);
        return chosen;
    };
    chosen.bracket = Bracket::new(ours);
    chosen.notes.extend(Some(note).filter(|note| !note.is_empty()));
    let mut fields = IndexMap::new();
    match ours {
        "AdamW" | "AdamW8bit" => drop(fields.insert("weight_decay", "0.01".to_owned())),
        "Adafactor" => fields.extend(["scale_parameter", "relative_step"].map(|name| (name, "true".to_owned()))),
        _ => {}
    }
    let mut warmup = 0.0;
    for argument in &given {
        match argument.strip_prefix("warmup_steps=").and_then(|steps| steps.parse().ok()) {
            Some(steps) if ours == "AdamWScheduleFree" => warmup = steps,
            _ => set(reader, ours, argument, &mut fields),
        }
    }
    let on = |name: &str| fields.get(name).is_some_and(|value| value == "true");
    if ours == "Adafactor" && (on("relative_step") || on("warmup_init")) {
        fields.insert("relative_step", "true".to_owned());
        let why = "Adafactor with relative_step finds the size of its steps".to_owned();
        for name in ["learning_rate", "unet_lr", "text_encoder_lr"] {
            reader.no_effect(name, &why);
        }
        chosen.rate = Some((1.0, why.clone()));
        chosen.schedule = Some(("Constant()".to_owned(), why));
    }
    if ours == "AdamWScheduleFree" {
        let why = "AdamWScheduleFree averages the weights in place of a falling rate".to_owned();
        let schedule = if warmup > 0.0 { format!("Constant(warmup: {warmup})") } else { "Constant()".to_owned() };
        chosen.schedule = Some((schedule, why));
    }
    for (name, value) in fields {
        chosen.bracket.field(name, &value);
    }
    chosen
}

/// Takes an argument of an optimizer into its fields.
fn set(reader: &mut Reader<'_>, ours: &str, argument: &str, fields: &mut IndexMap<&'static str, String>) {
    let known = arguments(ours);
    let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
    let Some(value) = literal(value) else {
        return reader.refuse(format!("--optimizer_args {argument}: that is no value"), "a number, True or False");
    };
    let names = known.iter().find(|(name, _)| *name == key).map(|(_, names)| *names);
    match (names, value) {
        (_, Literal::Nothing) | (None, Literal::Switch(false)) => {}
        (Some(names), Literal::Switch(on)) => drop(fields.insert(names[0], on.to_string())),
        (Some(names), Literal::Numbers(values)) if values.len() == names.len() => {
            fields.extend(names.iter().zip(values).map(|(name, value)| (*name, number(value))));
        }
        (Some(names), Literal::Numbers(_)) => {
            let message = format!("--optimizer_args {argument}: it has {} values", names.len());
            reader.refuse(message, "separate them by commas");
        }
        (None, _) if TUNING.contains(&key) => {
            let why = "it changes how fast a step is, or where states lie";
            reader.remark(format!("--optimizer_args {argument}: {why}."));
        }
        (None, _) => {
            let hint = suggestion(key, known.iter().map(|(name, _)| *name));
            let message = format!("--optimizer_args {argument}: {ours} has no such setting here");
            reader.refuse(message, hint.unwrap_or_else(|| "leave it out".to_owned()));
        }
    }
}

impl Chosen {
    /// Writes the field.
    pub fn write(&self, train: &mut Bracket) {
        let mut added = train.field("optimizer", self.bracket.clone()).from(&*self.source);
        for note in &self.notes {
            added = added.note(*note);
        }
    }
}

/// Reads what Python reads as a value, as far as optimizers take it.
fn literal(text: &str) -> Option<Literal> {
    let inner = text.trim().trim_start_matches(['(', '[']).trim_end_matches([')', ']', ',']);
    match inner {
        "None" => Some(Literal::Nothing),
        "True" => Some(Literal::Switch(true)),
        "False" => Some(Literal::Switch(false)),
        numbers => {
            let values: Result<Vec<f64>, _> = numbers.split(',').map(|value| value.trim().parse()).collect();
            values.ok().filter(|values| values.iter().all(|value| value.is_finite())).map(Literal::Numbers)
        }
    }
}
