use super::*;
use crate::checkpoint::MmditModel;

/// SD3-medium at 1024 pixels on a GPU.
fn medium(parameters: &str) -> Footprint {
    of_depth(24, parameters, DeviceKind::Cuda)
}

fn of_depth(depth: usize, parameters: &str, device: DeviceKind) -> Footprint {
    let clips = [(Component::ClipL, clip(12, 768)), (Component::ClipG, clip(32, 1280))].into();
    let geometry = MmditGeometry { depth, ..MmditModel::Sd3Medium.geometry().unwrap() };
    Footprint::new(&geometry, &clips, &ron::from_str(parameters).unwrap(), device, vec![[1, 4096, 333]]).unwrap()
}

/// The larger tensors of a CLIP.
fn clip(layers: usize, width: usize) -> Vec<(String, Vec<usize>)> {
    let linear = move |layer: usize| {
        let name = move |part: &str| format!("text_model.encoder.layers.{layer}.{part}.weight");
        let attention = ["q", "k", "v", "out"].map(|part| (name(&format!("self_attn.{part}_proj")), vec![width; 2]));
        let inner = [(name("mlp.fc1"), vec![4 * width, width]), (name("mlp.fc2"), vec![width, 4 * width])];
        attention.into_iter().chain(inner)
    };
    let embedding = ("text_model.embeddings.token_embedding.weight".to_owned(), vec![49408, width]);
    std::iter::once(embedding).chain((0..layers).flat_map(linear)).collect()
}

/// Values of SD3-medium that are trained, and those of its table of positions, which is not.
const TRAINED: u64 = 2_028_328_000;
const TABLE: u64 = 192 * 192 * 1536;

#[test]
fn a_block_keeps_what_its_operations_list() {
    let [one, two] = [1, 2].map(|depth| of_depth(depth, "()", DeviceKind::Cuda));
    // Of a value of each stream, in 16 bits: what goes into two norms and comes out of them, q, k and v, what attention gives twice, the
    // gated projection, twice four inside the feed-forward network, and the gated output.
    let values = (4096 + 333) * 1536;
    let logarithms = 24 * (4096 + 333) * 4;
    assert_eq!(two.activations() - one.activations(), values * 2 * (4 + 3 + 2 + 1 + 8 + 1) + logarithms);
    // Without kernels, two values of each norm in 32 bits instead of its input, and five times four.
    let [one, two] = [1, 2].map(|depth| of_depth(depth, "(precision: F32)", DeviceKind::Cuda));
    assert_eq!(two.activations() - one.activations(), values * 4 * (4 + 2 + 3 + 2 + 1 + 20 + 1) + logarithms);
}

#[test]
fn scores_are_kept_where_attention_is_not_fused() {
    let [fused, plain] = [DeviceKind::Cuda, DeviceKind::Cpu].map(|device| of_depth(24, "(precision: F32)", device));
    let tokens = 4096 + 333;
    let scores = 24 * (24 * tokens * tokens * 3 * 4);
    let instead = 24 * (tokens * 1536 * 4 + 24 * tokens * 4);
    assert_eq!(plain.activations() - fused.activations(), scores - instead);
}

#[test]
fn recomputing_keeps_one_block_and_the_inputs_of_the_others() {
    let all = medium("()").activations();
    let some = medium("(checkpointing: Blocks)").activations();
    assert!(some < all / 10, "{some} of {all}");
}

#[test]
fn the_peak_is_at_the_gradients_when_activations_are_few() {
    let few = |parameters| Footprint { batches: vec![[1, 16, 93]], ..medium(parameters) };
    // Weights, their copies, two moments, gradients; those of other optimizers in both types.
    assert_eq!(few("()").peak(), TRAINED * (4 + 2 + 8 + 2) + TABLE * (4 + 2) + BESIDE);
    assert_eq!(few("(optimizer: Lion(()))").peak(), TRAINED * (4 + 2 + 4 + 2 + 4) + TABLE * (4 + 2) + BESIDE);
    assert_eq!(few("(precision: F32)").peak(), TRAINED * (4 + 8 + 4) + TABLE * 4 + BESIDE);
    assert_eq!(few("(accumulate: 2)").peak() - few("()").peak(), (4 + 4) * TRAINED);
    assert_eq!(few("(average: Some(()))").peak() - few("()").peak(), 4 * TRAINED);
    // Of the moments each of four holds a quarter.
    let parameters = "(checkpointing: Blocks, fused_step: true)";
    let saved = few(parameters).peak() - few(parameters).peak_on(4);
    assert!((TRAINED * 5..=TRAINED * 6).contains(&saved), "{saved}");
    // Half the weights and no copies of them.
    assert_eq!(few("()").peak() - few("(weights: Bf16Stochastic)").peak(), TRAINED * (2 + 2));
}

/// What decides whether a card is large enough.
#[test]
fn each_way_to_save_memory_saves_what_it_says() {
    let plain = medium("()").peak();
    let small = "optimizer: AdamW8bit(()), weights: Bf16Stochastic";
    let [eight, blocks, fused, swapped] = [
        format!("({small})"),
        format!("({small}, checkpointing: Blocks)"),
        format!("({small}, checkpointing: Blocks, fused_step: true)"),
        format!("({small}, checkpointing: Blocks, fused_step: true, block_swap: 12)"),
    ]
    .map(|parameters| medium(&parameters).peak());
    assert!(plain > eight && eight > blocks && blocks > fused && fused > swapped);
    let held = TRAINED * (2 + 2);
    assert!((held..held * 7 / 5).contains(&fused), "{fused}");
    assert!(swapped < fused * 3 / 4, "{swapped} of {fused}");
    let lora = medium("(method: LoRA(()), checkpointing: Blocks)").peak();
    assert!((TRAINED * 2..TRAINED * 7 / 2).contains(&lora), "{lora}");
    // CLIPs are held beside it in 16 bits, with their adapters and states; activations only unless they run again.
    let [with_clips, kept] = ["checkpointing: Blocks", ""].map(|checkpointing| {
        let targets = "ClipLAttention, ClipGAttention, ImageQuery";
        let [clips, none] = [targets, "ImageQuery"]
            .map(|targets| medium(&format!("(method: LoRA((targets: [{targets}])), {checkpointing})")).peak());
        clips - none
    });
    let weights = 2 * (49408 * (768 + 1280) + 12 * 12 * 768 * 768 + 32 * 12 * 1280 * 1280);
    assert!((weights..weights * 11 / 10).contains(&with_clips), "{with_clips} and {weights}");
    assert!(kept > with_clips + (200 << 20), "{kept}");
    let frozen = medium("(freeze: [\"joint_blocks.0-11.*\"])").peak();
    assert!(frozen < plain * 3 / 4, "{frozen} of {plain}");
}
