//! The fields of a pipeline, each with another value than its usual one and with what that does.

/// A field, a legal value other than the usual one, and what that does.
#[derive(Debug, PartialEq)]
pub struct Field {
    /// Where it stands in the resolved pipeline.
    pub path: &'static str,
    /// What makes it have something to act on, where the pipeline does not.
    pub given: &'static [&'static str],
    /// What gives it its other value.
    pub settings: &'static [&'static str],
    /// The stage whose key moves; none for a field that changes no output.
    pub moves: Option<&'static str>,
}

const fn moves(stage: &'static str, path: &'static str, settings: &'static [&'static str]) -> Field {
    Field { path, given: &[], settings, moves: Some(stage) }
}

const fn nothing(path: &'static str, settings: &'static [&'static str]) -> Field {
    Field { path, given: &[], settings, moves: None }
}

/// A field that is not there, or does nothing, unless something else is set.
const fn given(given: &'static [&'static str], field: Field) -> Field {
    Field { given, ..field }
}

const REGULARISATION: &[&str] = &["captions.data=[(path: \"photos\", class: \"thing\", regularisation: true)]"];
const LORA: &[&str] = &["train.method=LoRA(rank: 4)"];
const VALIDATION: &[&str] = &["train.validation=(share: 0.5)"];
const AVERAGE: &[&str] = &["train.average=(decay: 0.5)"];
const BLOCKS: &[&str] = &["train.checkpointing=Blocks"];
const EIGHT_BIT: &[&str] = &["train.optimizer=AdamW8bit()"];
const ADAFACTOR: &[&str] = &["train.optimizer=Adafactor()"];
const LION: &[&str] = &["train.optimizer=Lion()"];
const PRODIGY: &[&str] = &["train.optimizer=Prodigy()", "train.learning_rate=1.0"];
const SCHEDULE_FREE: &[&str] = &["train.optimizer=AdamWScheduleFree()"];

const SKIP_LAYERS: &[&str] = &["sample.steps=2", "sample.skip_layers=(layers: [0], stop: 0.9)"];
const IMAGE: &[&str] = &["sample.image=(path: \"photos/fig.png\")"];
const ADDED_LORA: &[&str] = &["sample.lora=(path: \"model/lora.safetensors\")"];

/// Texts and latents must be of the same captions.
const BOTH: &[&str] = &["text.captions=\"captions2\"", "latents.captions=\"captions2\""];

/// Every field that there is. The test says which are lacking.
pub const FIELDS: &[Field] = &[
    moves("export", "name", &["name=\"renamed\""]),
    nothing("model.checkpoint", &["model.checkpoint=\"model/copy-checkpoint.safetensors\""]),
    nothing("model.vae", &["model.vae=\"model/copy-checkpoint.safetensors\""]),
    nothing("model.clip_l", &["model.clip_l=\"model/copy-clip_l.safetensors\""]),
    nothing("model.clip_g", &["model.clip_g=\"model/copy-clip_g.safetensors\""]),
    nothing("model.t5xxl", &["model.t5xxl=\"model/copy-t5xxl.safetensors\""]),
    nothing("model.tokenizers.clip", &["model.tokenizers.clip=\"model/copy-clip.json\""]),
    nothing("model.tokenizers.t5", &["model.tokenizers.t5=\"model/copy-t5.json\""]),
    nothing("device", &["device=Auto"]),
    nothing("report", &["report=false"]),
    nothing("store.local", &["store.local=\"another-store\""]),
    nothing("store.remote", &["store.remote=\"remote\""]),
    given(&["store.remote=\"remote\""], nothing("store.mode", &["store.mode=ReadOnly"])),
    nothing("captions.data[0].path", &["captions.data=[(path: \"copy-photos\", class: \"thing\")]"]),
    moves("captions", "captions.data[0].name", &["captions.data=[(path: \"photos\", class: \"thing\", name: \"n\")]"]),
    moves(
        "captions",
        "captions.data[0].repeats",
        &["captions.data=[(path: \"photos\", class: \"thing\", repeats: 2)]"],
    ),
    moves("captions", "captions.data[0].class", &["captions.data=[(path: \"photos\", class: \"other\")]"]),
    moves(
        "captions",
        "captions.data[0].weight",
        &["captions.data=[(path: \"photos\", class: \"thing\", weight: 0.5)]"],
    ),
    moves(
        "captions",
        "captions.data[0].regularisation",
        &["captions.data=[(path: \"photos\", class: \"thing\", regularisation: true)]"],
    ),
    moves(
        "captions",
        "captions.data[0].masks",
        &["captions.data=[(path: \"photos\", class: \"thing\", masks: Alpha)]"],
    ),
    moves("captions", "captions.data[0].flip", &["captions.data=[(path: \"photos\", class: \"thing\", flip: true)]"]),
    moves(
        "captions",
        "captions.data[0].trigger",
        &["captions.data=[(path: \"photos\", class: \"thing\", trigger: \"sks\")]"],
    ),
    moves(
        "captions",
        "captions.data[0].prefix",
        &["captions.data=[(path: \"photos\", class: \"thing\", prefix: \"the\")]"],
    ),
    moves(
        "captions",
        "captions.data[0].suffix",
        &["captions.data=[(path: \"photos\", class: \"thing\", suffix: \"here\")]"],
    ),
    moves("captions", "captions.lines", &["captions.lines=All"]),
    moves("captions", "captions.missing", &["captions.missing=Empty", "captions.data=[(path: \"photos\")]"]),
    moves("captions", "captions.prefix", &["captions.prefix=\"a photo of\""]),
    moves("captions", "captions.suffix", &["captions.suffix=\"in summer\""]),
    moves("captions", "captions.wildcards", &["captions.wildcards=(variants: 3)"]),
    given(
        &["captions.wildcards=(variants: 3)"],
        moves("captions", "captions.wildcards.variants", &["captions.wildcards=(variants: 4)"]),
    ),
    moves("captions", "captions.separator", &["captions.separator=\";\""]),
    moves("captions", "captions.shuffle.variants", &["captions.shuffle=(variants: 3)"]),
    moves("captions", "captions.shuffle.keep_tokens", &["captions.shuffle=(variants: 2, keep_tokens: 1)"]),
    moves(
        "captions",
        "captions.shuffle.keep_tokens_separator",
        &["captions.shuffle=(variants: 2, keep_tokens_separator: \"|||\")"],
    ),
    moves(
        "captions",
        "captions.shuffle.secondary_separator",
        &["captions.shuffle=(variants: 2, secondary_separator: \";;\")"],
    ),
    moves("captions", "captions.shuffle.tag_dropout", &["captions.shuffle=(variants: 2, tag_dropout: 0.5)"]),
    moves(
        "captions",
        "captions.shuffle.reorder",
        &["captions.shuffle=(variants: 2, tag_dropout: 0.5, reorder: false)"],
    ),
    moves("captions", "captions.extensions", &["captions.extensions=[\"txt\"]"]),
    moves("text", "text.captions", BOTH),
    moves("text", "text.t5_tokens", &["text.t5_tokens=24"]),
    moves("text", "text.precision", &["text.precision=Bf16"]),
    nothing("text.batch", &["text.batch=3"]),
    moves("latents", "latents.captions", BOTH),
    moves("latents", "latents.resolution", &["latents.resolution=80"]),
    moves("latents", "latents.further_resolutions", &["latents.further_resolutions=[96]"]),
    moves("latents", "latents.buckets.step", &["latents.buckets=(step: 32)"]),
    moves("latents", "latents.buckets.min", &["latents.buckets=(step: 16, min: 48)"]),
    moves("latents", "latents.buckets.max", &["latents.buckets=(step: 16, max: 96)"]),
    moves("latents", "latents.buckets.upscale", &["latents.buckets=(step: 16, upscale: false)"]),
    nothing("latents.batch", &["latents.batch=2"]),
    moves("latents", "latents.precision", &["latents.precision=Bf16"]),
    moves("train", "train.text", &["train.text=\"text2\""]),
    moves("train", "train.latents", &["train.latents=\"latents2\""]),
    moves("train", "train.epochs", &["train.epochs=2"]),
    moves("train", "train.batch", &["train.batch=1"]),
    moves("train", "train.accumulate", &["train.accumulate=2"]),
    moves("train", "train.precision", &["train.precision=Bf16"]),
    moves("train", "train.seed", &["train.seed=7"]),
    moves("train", "train.learning_rate", &["train.learning_rate=5e-4"]),
    moves("train", "train.schedule.warmup", &["train.schedule=Constant(warmup: 1)"]),
    moves("train", "train.optimizer.beta1", &["train.optimizer=AdamW(beta1: 0.8)"]),
    moves("train", "train.optimizer.beta2", &["train.optimizer=AdamW(beta2: 0.9)"]),
    moves("train", "train.optimizer.epsilon", &["train.optimizer=AdamW(epsilon: 1e-6)"]),
    moves("train", "train.optimizer.weight_decay", &["train.optimizer=AdamW(weight_decay: 0.1)"]),
    given(EIGHT_BIT, moves("train", "train.optimizer.beta1", &["train.optimizer=AdamW8bit(beta1: 0.8)"])),
    given(ADAFACTOR, moves("train", "train.optimizer.decay_rate", &["train.optimizer=Adafactor(decay_rate: -0.7)"])),
    given(
        ADAFACTOR,
        moves("train", "train.optimizer.scale_parameter", &["train.optimizer=Adafactor(scale_parameter: true)"]),
    ),
    given(LION, moves("train", "train.optimizer.beta2", &["train.optimizer=Lion(beta2: 0.9)"])),
    given(PRODIGY, moves("train", "train.optimizer.d_coef", &["train.optimizer=Prodigy(d_coef: 2.0)"])),
    given(SCHEDULE_FREE, moves("train", "train.optimizer.r", &["train.optimizer=AdamWScheduleFree(r: 1.0)"])),
    moves("train", "train.groups", &["train.groups=[(match: \"*\", learning_rate: 0.5)]"]),
    given(
        &["train.groups=[(match: \"*\")]"],
        moves("train", "train.groups[0].weight_decay", &["train.groups=[(match: \"*\", weight_decay: 0.5)]"]),
    ),
    moves("train", "train.freeze", &["train.freeze=[\"final_layer.*\"]"]),
    moves("train", "train.decay", &["train.decay=Matrices"]),
    moves("train", "train.weights", &["train.weights=Bf16Stochastic"]),
    moves("train", "train.checkpointing", BLOCKS),
    given(BLOCKS, nothing("train.fused_step", &["train.fused_step=true"])),
    given(BLOCKS, nothing("train.block_swap", &["train.block_swap=1"])),
    moves("train", "train.method", LORA),
    given(LORA, moves("train", "train.method.rank", &["train.method=LoRA(rank: 8)"])),
    given(LORA, moves("train", "train.method.alpha", &["train.method=LoRA(rank: 4, alpha: 2.0)"])),
    given(LORA, moves("train", "train.method.targets", &["train.method=LoRA(rank: 4, targets: [ImageQuery])"])),
    given(
        LORA,
        moves("train", "train.method.targets", &["train.method=LoRA(rank: 4, targets: [ImageQuery, ClipLAttention])"]),
    ),
    given(LORA, moves("train", "train.method.ranks", &["train.method=LoRA(rank: 4, ranks: {ImageOutput: 2})"])),
    given(LORA, moves("train", "train.method.blocks", &["train.method=LoRA(rank: 4, blocks: \"0\")"])),
    given(LORA, moves("train", "train.method.split_qkv", &["train.method=LoRA(rank: 4, split_qkv: true)"])),
    given(LORA, moves("train", "train.method.dropout", &["train.method=LoRA(rank: 4, dropout: 0.1)"])),
    given(LORA, moves("train", "train.method.dora", &["train.method=LoRA(rank: 4, dora: true)"])),
    nothing("train.init", &["train.init=File(\"model/copy-checkpoint.safetensors\")"]),
    moves("train", "train.target", &["train.target=X0"]),
    moves("train", "train.loss", &["train.loss=L1"]),
    given(&["train.loss=Huber()"], moves("train", "train.loss.delta", &["train.loss=Huber(delta: 0.5)"])),
    given(
        &["train.loss=Huber(delta: 0.5)"],
        moves("train", "train.loss.schedule", &["train.loss=Huber(delta: 0.5, schedule: Exponential)"]),
    ),
    given(&["train.loss=SmoothL1()"], moves("train", "train.loss.beta", &["train.loss=SmoothL1(beta: 0.5)"])),
    moves("train", "train.weighting", &["train.weighting=CosMap"]),
    moves("train", "train.min_timestep", &["train.min_timestep=100"]),
    moves("train", "train.max_timestep", &["train.max_timestep=900"]),
    moves("train", "train.stratified", &["train.stratified=true"]),
    given(&["train.density=Mode()"], moves("train", "train.density.scale", &["train.density=Mode(scale: 0.5)"])),
    given(
        &["train.schedule=CosineWithRestarts()"],
        moves("train", "train.schedule.cycles", &["train.schedule=CosineWithRestarts(cycles: 2)"]),
    ),
    given(
        &["train.schedule=Linear()"],
        moves("train", "train.schedule.minimum_ratio", &["train.schedule=Linear(minimum_ratio: 0.1)"]),
    ),
    given(
        &["train.schedule=WarmupStableDecay()"],
        moves("train", "train.schedule.shape", &["train.schedule=WarmupStableDecay(shape: Linear)"]),
    ),
    moves("train", "train.max_gradient_norm", &["train.max_gradient_norm=0.5"]),
    moves("train", "train.density.mean", &["train.density=LogitNormal(mean: 0.5)"]),
    moves("train", "train.density.standard_deviation", &["train.density=LogitNormal(standard_deviation: 0.5)"]),
    moves("train", "train.shift", &["train.shift=1.0"]),
    moves("train", "train.sample_posterior", &["train.sample_posterior=false"]),
    moves("train", "train.caption_dropout", &["train.caption_dropout=0.5"]),
    moves("train", "train.encoder_dropout.clip_l", &["train.encoder_dropout.clip_l=0.5"]),
    moves("train", "train.encoder_dropout.clip_g", &["train.encoder_dropout.clip_g=0.5"]),
    moves("train", "train.encoder_dropout.t5", &["train.encoder_dropout.t5=0.5"]),
    moves("train", "train.validation", VALIDATION),
    given(VALIDATION, moves("train", "train.validation.share", &["train.validation=(share: 0.6)"])),
    given(VALIDATION, moves("train", "train.validation.every", &["train.validation=(share: 0.5, every: 2)"])),
    given(
        VALIDATION,
        moves("train", "train.validation.timesteps", &["train.validation=(share: 0.5, timesteps: [500])"]),
    ),
    given(VALIDATION, moves("train", "train.validation.noises", &["train.validation=(share: 0.5, noises: 2)"])),
    given(VALIDATION, moves("train", "train.stop", &["train.stop=(patience: 2)"])),
    given(
        &["train.validation=(share: 0.5)", "train.stop=(patience: 2)"],
        moves("train", "train.stop.minimum", &["train.stop=(patience: 2, minimum: 0.1)"]),
    ),
    moves("train", "train.average", AVERAGE),
    given(AVERAGE, moves("train", "train.average.decay", &["train.average=(decay: 0.6)"])),
    given(AVERAGE, moves("train", "train.average.after", &["train.average=(decay: 0.5, after: 1)"])),
    given(AVERAGE, moves("train", "train.average.warmup", &["train.average=(decay: 0.5, warmup: Power())"])),
    given(
        &["train.average=(warmup: Power())"],
        moves("train", "train.average.warmup.power", &["train.average=(warmup: Power(power: 0.75))"]),
    ),
    given(REGULARISATION, moves("train", "train.prior_loss_weight", &["train.prior_loss_weight=0.5"])),
    nothing("train.save_every", &["train.save_every=2"]),
    moves("export", "export.train", &["export.train=\"train2\""]),
    moves("export", "export.epochs", &["export.epochs=Last"]),
    given(AVERAGE, moves("export", "export.weights", &["export.weights=Average"])),
    moves("export", "export.precision", &["export.precision=F32"]),
    moves("export", "export.layout", &["export.layout=Diffusers"]),
    moves("export", "export.text_encoders", &["export.text_encoders=true"]),
    given(LORA, moves("export", "export.lora", &["export.lora=Kohya"])),
    moves("sample", "sample.export", &["sample.export=\"export2\""]),
    moves("sample", "sample.prompts", &["sample.prompts=[\"a hut\", \"an owl\"]"]),
    moves("sample", "sample.negative", &["sample.negative=\"blurred\""]),
    moves("sample", "sample.cfg", &["sample.cfg=2.0"]),
    moves("sample", "sample.steps", &["sample.steps=2"]),
    moves("sample", "sample.seeds", &["sample.seeds=[2, 3]"]),
    moves("sample", "sample.size", &["sample.size=(64, 96)"]),
    moves("sample", "sample.epochs", &["sample.epochs=Last"]),
    moves("sample", "sample.base", &["sample.base=false"]),
    moves("sample", "sample.shift", &["sample.shift=1.0"]),
    moves("sample", "sample.t5_tokens", &["sample.t5_tokens=24"]),
    moves("sample", "sample.precision", &["sample.precision=Bf16"]),
    moves("sample", "sample.sampler", &["sample.sampler=Dpm2m"]),
    given(&["sample.steps=2"], moves("sample", "sample.skip_layers", SKIP_LAYERS)),
    given(SKIP_LAYERS, moves("sample", "sample.skip_layers.layers", &["sample.skip_layers=(layers: [1], stop: 0.9)"])),
    given(
        SKIP_LAYERS,
        moves("sample", "sample.skip_layers.scale", &["sample.skip_layers=(layers: [0], scale: 2.0, stop: 0.9)"]),
    ),
    given(
        SKIP_LAYERS,
        moves("sample", "sample.skip_layers.start", &["sample.skip_layers=(layers: [0], start: 0.1, stop: 0.9)"]),
    ),
    given(SKIP_LAYERS, moves("sample", "sample.skip_layers.stop", &["sample.skip_layers=(layers: [0], stop: 0.8)"])),
    moves("sample", "sample.image", IMAGE),
    given(IMAGE, nothing("sample.image.path", &["sample.image=(path: \"copy-photos/fig.png\")"])),
    given(IMAGE, moves("sample", "sample.image.path", &["sample.image=(path: \"photos/owl.png\")"])),
    given(IMAGE, moves("sample", "sample.image.strength", &["sample.image=(path: \"photos/fig.png\", strength: 1.0)"])),
    moves("sample", "sample.lora", ADDED_LORA),
    given(ADDED_LORA, nothing("sample.lora.path", &["sample.lora=(path: \"model/copy-lora.safetensors\")"])),
    given(
        ADDED_LORA,
        moves("sample", "sample.lora.strength", &["sample.lora=(path: \"model/lora.safetensors\", strength: 0.5)"]),
    ),
    given(LORA, moves("sample", "sample.lora_strength", &["sample.lora_strength=0.5"])),
    nothing("sample.batch", &["sample.batch=2"]),
];

/// The fields of stages that any pipeline with these stages can set at any time, together with all others of them.
pub fn free() -> Vec<&'static Field> {
    let bound =
        ["captions.data", "captions.missing", "export.layout", "text.captions", "latents.captions", "train.text"];
    // Refused beside others of them.
    let apart = ["train.method", "train.stratified", "train.init", "train.validation"];
    // They name files.
    let files = ["sample.image", "sample.lora"];
    let bound = [&bound[..], &["train.latents", "export.train", "sample.export"], &apart, &files].concat();
    let of_none = ["model.", "store."];
    let of_a_stage = |field: &&Field| {
        field.path.contains('.') && !of_none.iter().any(|of| field.path.starts_with(of)) && field.given.is_empty()
    };
    FIELDS.iter().filter(of_a_stage).filter(|field| !bound.iter().any(|path| field.path.starts_with(path))).collect()
}
