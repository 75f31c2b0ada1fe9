//! The whole network, its blocks, and a training step.

use crate::measure::Bench;
use burn::tensor::{DType, Distribution, Tensor};
use sd3pipe_stages::checkpoint::{MmditGeometry, POSITION_TABLE, mmdit_names};
use sd3pipe_stages::nn::{Mmdit, PositionCrop, Weight, Weights, mmdit::Streams};
use sd3pipe_stages::precision::Precision;
use sd3pipe_stages::tensors::Array;
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer};
use sd3pipe_stages::train::parameters::{Checkpointing, Train, WeightType};
use sd3pipe_stages::train::{Batch, Drawn, Gradients, State, network};

const TOKENS: f64 = 4096.0 + 333.0;
const WIDTH: f64 = 1536.0;
const DEPTH: f64 = 24.0;

/// Operations of a forward pass, by the matrix products and the attentions of its blocks.
const FORWARD: f64 = 2.0 * TOKENS * DEPTH * 12.0 * WIDTH * WIDTH + 4.0 * DEPTH * TOKENS * TOKENS * WIDTH;

fn sd3_medium() -> MmditGeometry {
    MmditGeometry {
        depth: 24,
        width: 1536,
        heads: 24,
        patch: 2,
        channels: 16,
        pooled_width: 2048,
        context_width: 4096,
        position_grid: 192,
        qk_norm: false,
        dual_attention: Vec::new(),
    }
}

fn weights(bench: &Bench, dtype: DType) -> Weights {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let length = shape.iter().product::<usize>();
        let law = Distribution::Normal(0.0, 0.02);
        let values: Tensor<1> = Tensor::random([length], law, (&bench.device, DType::F32));
        let values = values.cast(dtype);
        (name, Weight { values, shape })
    };
    mmdit_names(&sd3_medium()).into_iter().map(tensor).collect()
}

struct Inputs {
    latents: Tensor<4>,
    timesteps: Tensor<1>,
    context: Tensor<3>,
    pooled: Tensor<2>,
}

impl Inputs {
    fn new(bench: &Bench) -> Self {
        Self {
            latents: bench.random([1, 16, 128, 128]),
            timesteps: Tensor::full([1], 500.0, (&bench.device, DType::F32)),
            context: bench.random([1, 333, 4096]),
            pooled: bench.random([1, 2048]),
        }
    }

    fn through(&self, network: &Mmdit) -> Tensor<4> {
        let Self { latents, timesteps, context, pooled } = self;
        network.forward(latents.clone(), timesteps.clone(), context.clone(), pooled.clone(), PositionCrop::Centre)
    }
}

pub fn block(bench: &Bench) {
    let weights = weights(bench, DType::BF16);
    let network = Mmdit::new(&weights.root()).expect("SD3-medium");
    let conditioning = bench.random([1, 1536]);
    let streams = Streams { image: bench.random([1, 4096, 1536]), context: bench.random([1, 333, 1536]) };
    for blocks in [1, 4] {
        bench.time(&format!("{blocks} blocks without gradients"), FORWARD / DEPTH * blocks as f64, || {
            let mut streams = streams.clone();
            for block in &network.blocks[..blocks] {
                streams = block.forward(streams, conditioning.clone());
            }
            streams
        });
    }
    bench.time("4 blocks forward and backward", FORWARD / DEPTH * 12.0, || {
        let tracked = tracked(&weights);
        let network = Mmdit::new(&tracked.root()).expect("SD3-medium");
        let mut streams =
            Streams { image: streams.image.clone().autodiff(), context: streams.context.clone().autodiff() };
        for block in &network.blocks[..4] {
            streams = block.forward(streams, conditioning.clone().autodiff());
        }
        let gradients = (streams.image.sum() + streams.context.sum()).backward();
        tracked.iter().filter_map(|(_, weight)| weight.values.grad(&gradients)).collect::<Vec<_>>()
    });
}

pub fn forward(bench: &Bench) {
    let weights = weights(bench, DType::BF16);
    let network = Mmdit::new(&weights.root()).expect("SD3-medium");
    let inputs = Inputs::new(bench);
    bench.time("24 blocks without gradients", FORWARD, || inputs.through(&network));
}

fn tracked(weights: &Weights) -> Weights {
    weights.map(|name, values| if name == POSITION_TABLE { values } else { values.autodiff().require_grad() })
}

pub fn backward(bench: &Bench) {
    let weights = weights(bench, DType::BF16);
    let inputs = Inputs::new(bench);
    bench.time("24 blocks, forward and backward", 3.0 * FORWARD, || {
        let tracked = tracked(&weights);
        let network = Mmdit::new(&tracked.root()).expect("SD3-medium");
        let gradients = inputs.through(&network).powi_scalar(2).mean().backward();
        tracked.iter().filter_map(|(_, weight)| weight.values.grad(&gradients)).collect::<Vec<_>>()
    });
}

/// Optimizer steps as the trainer takes them: 8-bit AdamW over weights in bf16.
pub fn step(bench: &Bench) {
    let parameters = Train {
        optimizer: Optimizer::AdamW8bit(AdamW::default()),
        weights: WeightType::Bf16Stochastic,
        precision: Precision::Bf16,
        max_gradient_norm: 0.0,
        ..Train::default()
    };
    let context = || bench.random([1, 333, 4096]);
    let batch = |bench: &Bench| {
        let values: Vec<f32> = (0..16 * 128 * 128u32).map(|index| (index as f32 * 0.7).sin()).collect();
        let raw = Array { shape: vec![16, 128, 128], values: values.clone() };
        Batch::new(
            &[Drawn { raw, noise: values, sigma: 0.5 }],
            context().autodiff(),
            bench.random([1, 2048]).autodiff(),
        )
        .expect("a batch")
    };
    let mut state = State::start(weights(bench, DType::BF16));
    let mut count = 0;
    let mut next = || {
        count += 1;
        count - 1
    };
    let fused = Train { checkpointing: Checkpointing::Blocks, fused_step: true, ..parameters.clone() };
    bench.time("step: block checkpointing, AdamW8bit in the backward pass", 4.0 * FORWARD, || {
        state.update_by_blocks(batch(bench), &fused, 1e-6, next()).expect("a step")
    });
    bench.device.memory_cleanup();
    bench.time("step: without checkpointing, AdamW8bit", 3.0 * FORWARD, || {
        let gradients = Gradients::of(&network(&state, &parameters), [Ok(batch(bench))], 1).expect("gradients");
        state.update(gradients, &parameters, 1e-6, next()).expect("a step")
    });
}
