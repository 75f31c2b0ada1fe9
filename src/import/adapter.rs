//! A LoRA and what is said to its network module.

use super::{
    reader::Reader,
    text::{Bracket, number, quoted},
};
use std::collections::{BTreeMap, BTreeSet};

/// The kinds of layers in an argument of `networks.lora_sd3` that gives them a rank of their own.
const KINDS: [(&str, &[&str]); 6] = [
    ("x_attn_dim", &["ImageQuery", "ImageKey", "ImageValue", "ImageOutput"]),
    ("x_mlp_dim", &["ImageFeedForward"]),
    ("x_mod_dim", &["ImageModulation"]),
    ("context_attn_dim", &["TextQuery", "TextKey", "TextValue", "TextOutput"]),
    ("context_mlp_dim", &["TextFeedForward"]),
    ("context_mod_dim", &["TextModulation"]),
];

/// The layers of the CLIPs, with the names of their tensors.
const CLIPS: [(&str, [&str; 2]); 2] =
    [("clip_l.*", ["ClipLAttention", "ClipLFeedForward"]), ("clip_g.*", ["ClipGAttention", "ClipGFeedForward"])];

/// The method, and groups of tensors with rates of their own where the others' is `rate`.
pub fn read(reader: &mut Reader<'_>, rate: f64) -> (Bracket, Vec<Bracket>) {
    match reader.text("network_module").as_deref() {
        Some("networks.lora_sd3") => {}
        Some("networks.lora") => reader.refuse(
            "--network_module networks.lora: it finds no layer of SD3's MMDiT, and trains the CLIPs alone",
            "--network_module networks.lora_sd3",
        ),
        Some(_) => {
            let message = format!("{}: there is no such adapter here", reader.written("network_module"));
            reader.refuse(message, "--network_module networks.lora_sd3, or method: LoRA(dora: true) for a DoRA");
        }
        None => reader.refuse("--network_module is missing", "--network_module networks.lora_sd3"),
    }
    let mut arguments = Arguments::read(reader);
    let mut lora = Bracket::new("LoRA");
    let rank = reader.number::<u32>("network_dim").unwrap_or(4);
    lora.field("rank", &rank).from(reader.source("network_dim"));
    let alpha = reader.number::<f64>("network_alpha").unwrap_or(1.0);
    // 0 means each layer's rank, as it does when the field is left out.
    if alpha != 0.0 {
        let added = lora.field("alpha", &number(alpha)).from(reader.source("network_alpha"));
        if alpha != f64::from(rank) {
            added.note("What the adapter adds is scaled by alpha/rank. Left out it is the rank: a scale of 1.");
        }
    }
    let (targets, ranks, all) = targets(reader, &mut arguments, rank);
    if !all {
        lora.field("targets", &format!("[{}]", targets.join(", ")))
            .from(reader.all_written(&["network_train_unet_only", "network_train_text_encoder_only"]));
    }
    if !ranks.is_empty() {
        let list: Vec<String> = ranks.iter().map(|(kind, rank)| format!("{kind}: {rank}")).collect();
        lora.field("ranks", &format!("{{{}}}", list.join(", "))).from("--network_args");
    }
    if let Some(blocks) = arguments.take("train_block_indices") {
        match blocks.as_str() {
            "all" => {}
            "none" | "" => reader.refuse("train_block_indices: no block is left", "name some: 0-11"),
            blocks => drop(lora.field("blocks", &quoted(blocks)).from("--network_args train_block_indices")),
        }
    }
    if arguments.take("split_qkv").as_deref() == Some("True") {
        lora.field("split_qkv", &true).from("--network_args split_qkv").note(
            "sd-scripts' own files of such an adapter load at a third of their strength; the files that are written here load whole.",
        );
    }
    if let Some(rate) = reader.number::<f64>("network_dropout").filter(|rate| *rate > 0.0) {
        lora.field("dropout", &number(rate)).from(reader.written("network_dropout"));
    }
    if let Some(file) = reader.text("network_weights") {
        lora.field("from", &reader.path(&file)).from("--network_weights");
    }
    let groups = groups(reader, &mut arguments, rate, &targets);
    for (name, instead) in [
        ("rank_dropout", "--network_dropout, which drops values of each sample too"),
        ("module_dropout", "--network_dropout"),
        ("train_t5xxl", "leave it out: T5 stays as it is here"),
    ] {
        let given =
            arguments.take(name).filter(|value| value != "False" && value != "None" && value.parse() != Ok(0.0));
        if let Some(value) = given {
            reader.refuse(format!("--network_args {name}={value}: there is no such thing here"), instead);
        }
    }
    for name in ["verbose", "conv_dim", "conv_alpha"] {
        if let Some(value) = arguments.take(name) {
            reader.remark(format!("--network_args {name}={value}: had no effect: it changes nothing of SD3's layers."));
        }
    }
    for (name, value) in arguments.0 {
        let reason = "sd-scripts passes it over, and it means nothing to networks.lora_sd3";
        let known = KINDS.iter().map(|(kind, _)| *kind).chain(KNOWN);
        let hint = crate::pipeline::suggestion(&name, known).unwrap_or_else(|| "leave it out".to_owned());
        reader.refuse(format!("--network_args {name}={value}: {reason}"), hint);
    }
    (lora, groups)
}

/// What networks.lora_sd3 reads beside ranks by kind.
const KNOWN: [&str; 12] = [
    "conv_alpha",
    "conv_dim",
    "emb_dims",
    "loraplus_lr_ratio",
    "loraplus_text_encoder_lr_ratio",
    "loraplus_unet_lr_ratio",
    "module_dropout",
    "rank_dropout",
    "split_qkv",
    "train_block_indices",
    "train_t5xxl",
    "verbose",
];

/// `--network_args` that nobody has read yet.
struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut arguments = BTreeMap::new();
        for word in reader.list("network_args").unwrap_or_default() {
            match word.split_once('=') {
                Some((name, value)) => drop(arguments.insert(name.trim().to_owned(), value.trim().to_owned())),
                None => reader.refuse(format!("--network_args {word}: it has no value"), "name=value"),
            }
        }
        Self(arguments)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn number<T: std::str::FromStr>(&mut self, reader: &mut Reader<'_>, name: &str) -> Option<T> {
        let text = self.take(name).filter(|text| text != "None")?;
        let number = text.parse().ok();
        if number.is_none() {
            reader.refuse(format!("--network_args {name}={text}: that is no number that it could be"), "write one");
        }
        number
    }
}

/// The kinds of layers that have an adapter, ranks of their own, and whether the kinds are those of a LoRA to which none are named.
fn targets(
    reader: &mut Reader<'_>,
    arguments: &mut Arguments,
    rank: u32,
) -> (Vec<&'static str>, Vec<(&'static str, u32)>, bool) {
    let (mut targets, mut ranks) = (Vec::new(), Vec::new());
    let unet = !reader.switch("network_train_text_encoder_only");
    let clips = !reader.switch("network_train_unet_only");
    let mut all = unet;
    for (name, kinds) in KINDS {
        let own = arguments.number::<u32>(reader, name).unwrap_or(rank);
        if unet && own > 0 {
            targets.extend(kinds);
            ranks.extend(kinds.iter().filter(|_| own != rank).map(|kind| (*kind, own)));
        } else {
            all = false;
        }
    }
    if let Some(text) = arguments.take("emb_dims") {
        let dims: Vec<Option<u32>> =
            text.trim_matches(['[', ']']).split(',').map(|dim| dim.trim().parse().ok()).collect();
        let same = |dims: &[Option<u32>]| dims.iter().all(|dim| *dim == dims[0]).then(|| dims[0]).flatten();
        // Of context, t, x and y; then of the final modulation and the final layer.
        let of_kinds = (dims.len() == 6).then(|| Some((same(&dims[..4])?, same(&dims[4..])?))).flatten();
        match of_kinds {
            Some((embedders, last)) => {
                for (kind, own) in [("Embedders", embedders), ("FinalLayer", last)] {
                    if unet && own > 0 {
                        all = false;
                        targets.push(kind);
                        ranks.extend((own != rank).then_some((kind, own)));
                    }
                }
            }
            None => reader.refuse(
                format!(
                    "--network_args emb_dims={text}: the four embedders have one rank here, and the two last layers one"
                ),
                "[4,4,4,4,4,4], say",
            ),
        }
    }
    if clips {
        let rates = rates(reader);
        for ((_, kinds), rate) in CLIPS.iter().zip(rates) {
            // A rate of 0 leaves an encoder as it is.
            if rate != Some(0.0) {
                all = false;
                targets.extend(kinds);
            }
        }
    }
    (targets, ranks, all)
}

/// The rates of CLIP-L and of CLIP-G, where they are said.
fn rates(reader: &mut Reader<'_>) -> [Option<f64>; 2] {
    let words = reader.list("text_encoder_lr").unwrap_or_default();
    let rates: Vec<Option<f64>> = words.iter().map(|word| word.parse().ok()).collect();
    if rates.contains(&None) {
        reader.refuse(
            format!("{} is not a list of rates", reader.written("text_encoder_lr")),
            "one, or one for each encoder",
        );
    }
    let first = rates.first().copied().flatten();
    [first, rates.get(1).copied().flatten().or(first)]
}

/// Rates of their own: of the CLIPs, and of LoRA+, in which the halves that write learn faster.
fn groups(reader: &mut Reader<'_>, arguments: &mut Arguments, rate: f64, targets: &[&str]) -> Vec<Bracket> {
    let targets: BTreeSet<&str> = targets.iter().copied().collect();
    let ratio = arguments.number::<f64>(reader, "loraplus_lr_ratio");
    let of_unet = arguments.number::<f64>(reader, "loraplus_unet_lr_ratio").or(ratio);
    let of_clips = arguments.number::<f64>(reader, "loraplus_text_encoder_lr_ratio").or(ratio);
    let rates = if reader.switch("network_train_unet_only") { [None, None] } else { rates(reader) };
    // Without a rate of their own encoders have that of --learning_rate, not of --unet_lr.
    let lacks = |((_, kinds), said): (&(&str, [&str; 2]), Option<f64>)| said.is_none() && targets.contains(kinds[0]);
    let lack = CLIPS.iter().zip(rates).any(lacks);
    let own = lack.then(|| reader.number::<f64>("learning_rate")).flatten().unwrap_or(2e-6);
    let mut groups = Vec::new();
    let mut add = |pattern: &str, factor: f64, note: &str| {
        let mut group = Bracket::new("");
        let added = group.field("match", &quoted(pattern));
        if !note.is_empty() {
            added.note(note);
        }
        // A quotient of two rates, without the last bits of its division.
        let factor = format!("{factor:.12}").parse().unwrap_or(factor);
        group.field("learning_rate", &number(factor));
        groups.push(group);
    };
    let factor = |((_, kinds), said): (&(&str, [&str; 2]), Option<f64>)| {
        targets.contains(kinds[0]).then(|| said.unwrap_or(own) / rate)
    };
    let factors: Vec<Option<f64>> = CLIPS.iter().zip(rates).map(factor).collect();
    for ((pattern, _), factor) in CLIPS.iter().zip(&factors) {
        let Some(factor) = *factor else { continue };
        if let Some(ratio) = of_clips {
            add(&format!("{pattern}.lora_up.weight"), factor * ratio, "LoRA+");
        }
        if factor != 1.0 {
            add(pattern, factor, "");
        }
    }
    if let Some(ratio) = of_unet {
        // A tensor goes by the first group that it is in: adapters of the CLIPs by these.
        for ((pattern, _), factor) in CLIPS.iter().zip(&factors) {
            if of_clips.is_none() && *factor == Some(1.0) {
                add(pattern, 1.0, "LoRA+ is of the MMDiT alone");
            }
        }
        add("*.lora_up.weight", ratio, "LoRA+");
    }
    groups
}
