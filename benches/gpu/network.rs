//! The whole network, its blocks, training steps, and pictures.

use crate::{
    encoders,
    measure::{Bench, Least},
    released,
};
use burn::tensor::{DType, Tensor};
use sd3pipe_stages::checkpoint::POSITION_TABLE;
use sd3pipe_stages::nn::{Mmdit, PositionCrop, VaeDecoder, Weights, mmdit::Streams, process_out};
use sd3pipe_stages::precision::Precision;
use sd3pipe_stages::sample::{Guidance, Steps, draw, parameters::Sampler, sigmas::sigmas, to_rgb};
use sd3pipe_stages::tensors::Array;
use sd3pipe_stages::train::optimizer::{AdamW, Optimizer};
use sd3pipe_stages::train::parameters::{Checkpointing, Train, WeightType};
use sd3pipe_stages::train::{Batch, Drawn, Gradients, State, network};

const TOKENS: f64 = 4096.0 + 333.0;
const WIDTH: f64 = 1536.0;
const DEPTH: f64 = 24.0;

/// Operations of a forward pass, by the matrix products and the attentions of its blocks.
pub const FORWARD: f64 = 2.0 * TOKENS * DEPTH * 12.0 * WIDTH * WIDTH + 4.0 * DEPTH * TOKENS * TOKENS * WIDTH;

pub const PARAMETERS: f64 = 2_028_328_000.0;

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

fn mmdit(weights: &Weights) -> Mmdit {
    Mmdit::new(&weights.root()).expect("SD3-medium")
}

pub fn block(bench: &Bench) {
    let weights = bench.weights(released::mmdit());
    let network = mmdit(&weights);
    let conditioning = bench.random([1, 1536]);
    let streams = Streams { image: bench.random([1, 4096, 1536]), context: bench.random([1, 333, 1536]) };
    for blocks in [1, 4] {
        bench.time(&format!("{blocks} blocks without gradients"), FORWARD / DEPTH * blocks as f64, || {
            let mut streams = streams.clone();
            for block in &network.blocks[..blocks] {
                streams = block.forward(streams, conditioning.clone());
            }
            (streams.image, streams.context)
        });
    }
    bench.time("4 blocks forward and backward", FORWARD / DEPTH * 12.0, || {
        let tracked = tracked(&weights);
        let network = mmdit(&tracked);
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
    let network = mmdit(&bench.weights(released::mmdit()));
    let inputs = Inputs::new(bench);
    bench.time("MMDiT forward", FORWARD, || inputs.through(&network));
}

fn tracked(weights: &Weights) -> Weights {
    weights.map(|name, values| if name == POSITION_TABLE { values } else { values.autodiff().require_grad() })
}

pub fn backward(bench: &Bench) {
    let weights = bench.weights(released::mmdit());
    let inputs = Inputs::new(bench);
    bench.time("MMDiT forward and backward", 3.0 * FORWARD, || {
        let tracked = tracked(&weights);
        let gradients = inputs.through(&mmdit(&tracked)).powi_scalar(2).mean().backward();
        tracked.iter().filter_map(|(_, weight)| weight.values.grad(&gradients)).collect::<Vec<_>>()
    });
}

/// A training of weights in bf16, as the trainer does it, one step after the other over the same batch.
pub struct Training {
    pub state: State,
    pub parameters: Train,
    pub batch: Batch,
    steps: u64,
}

/// Small, so that random weights stay what they are.
pub const RATE: f64 = 1e-6;

impl Training {
    pub fn new(bench: &Bench, optimizer: Optimizer) -> Self {
        let values: Vec<f32> = (0..16 * 128 * 128u32).map(|index| (index as f32 * 0.7).sin()).collect();
        let raw = Array { shape: vec![16, 128, 128], values: values.clone() };
        let (context, pooled) = (bench.random([1, 333, 4096]).autodiff(), bench.random([1, 2048]).autodiff());
        let parameters = Train {
            optimizer,
            weights: WeightType::Bf16Stochastic,
            precision: Precision::Bf16,
            max_gradient_norm: 0.0,
            ..Train::default()
        };
        Self {
            state: State::start(bench.weights(released::mmdit())),
            parameters,
            batch: Batch::new(&[Drawn { raw, noise: values, sigma: 0.5 }], context, pooled).expect("a batch"),
            steps: 0,
        }
    }

    /// A step with each block moved as soon as its gradients are known.
    fn step_by_blocks(&mut self) {
        let step = self.next();
        self.state.update_by_blocks(self.batch.clone(), 1, &self.parameters, RATE, step).expect("a step");
    }

    fn step(&mut self) {
        let gradients = self.gradients();
        self.update(gradients);
    }

    fn gradients(&self) -> Gradients {
        let network = network(&self.state, &self.parameters);
        Gradients::of(&network, [Ok(self.batch.clone())], 1).expect("gradients")
    }

    fn update(&mut self, gradients: Gradients) {
        let step = self.next();
        self.state.update(gradients, &self.parameters, RATE, step).expect("a step");
    }

    pub fn next(&mut self) -> u64 {
        self.steps += 1;
        self.steps - 1
    }
}

fn of_recipe(bench: &Bench) -> Training {
    let mut training = Training::new(bench, Optimizer::AdamW8bit(AdamW::default()));
    training.parameters.checkpointing = Checkpointing::Blocks;
    training.parameters.fused_step = true;
    training
}

/// Weights, gradients and states of 8 bits: read once, and all but the gradients written.
pub const IN_8_BITS: f64 = 10.0 * PARAMETERS;
/// The same with states of 32 bits.
const IN_32_BITS: f64 = 22.0 * PARAMETERS;

/// A step of the known-good recipe: blocks run again, 8-bit AdamW, here inside the backward pass.
pub fn recipe(bench: &Bench) {
    let mut training = of_recipe(bench);
    let least = Least { operations: 4.0 * FORWARD, bytes: IN_8_BITS };
    bench.time("step by blocks, 8-bit AdamW", least, || training.step_by_blocks());
}

/// Steps that keep what the backward pass needs, and the optimizer alone.
pub fn step(bench: &Bench) {
    let least = |bytes| Least { operations: 3.0 * FORWARD, bytes };
    let mut training = Training::new(bench, Optimizer::AdamW8bit(AdamW::default()));
    bench.time("step, 8-bit AdamW", least(IN_8_BITS), || training.step());
    let gradients = training.gradients();
    bench.time("8-bit AdamW alone", Least { operations: 0.0, bytes: IN_8_BITS }, || training.update(gradients.clone()));
    drop((training, gradients));
    bench.device.memory_cleanup();
    let mut training = Training::new(bench, Optimizer::AdamW(AdamW::default()));
    bench.time("step, AdamW", least(IN_32_BITS), || training.step());
}

/// Three steps of the recipe, with the device's log of kernels cut between them by what waits for them.
pub fn profile(bench: &Bench) {
    let mut training = of_recipe(bench);
    for _ in 0..3 {
        training.step_by_blocks();
        bench.device.sync().expect("a step");
    }
}

/// The same of steps over four pictures, whose gradients are added up.
pub fn profile_of_4(bench: &Bench) {
    let mut training = of_recipe(bench);
    for _ in 0..3 {
        let batches = [(); 4].map(|()| Ok(training.batch.clone()));
        let gradients = Gradients::by_blocks(&mut training.state, &training.parameters, batches, 4);
        training.update(gradients.expect("gradients"));
        bench.device.sync().expect("a step");
    }
}

/// An image as `sample` draws it: both halves of the guidance go through the network as one batch.
pub fn sample(bench: &Bench) {
    let network = mmdit(&bench.weights(released::mmdit()));
    let names = released::vae_decoder();
    let operations = 28.0 * 2.0 * FORWARD + encoders::of_vae(&names, "conv_out", 1024);
    let decoder = VaeDecoder::new(&bench.weights(names).root()).expect("the VAE's decoder");
    let text = || (bench.random([1, 333, 4096]), bench.random([1, 2048]));
    let guidance = Guidance { prompt: text(), negative: Some(text()), cfg: 7.0, skip_layers: None };
    let sigmas = sigmas(28, 3.0);
    let steps = Steps { sampler: Sampler::Euler, sigmas: &sigmas, skipped: 0 };
    let noise = bench.random([1, 16, 128, 128]).cast(DType::F32);
    bench.time("28 guided steps and decoding", operations, || {
        let latents = draw(&network, noise.clone(), &guidance, &steps, || Ok(())).expect("latents");
        to_rgb(decoder.decode(process_out(latents))).expect("values that are finite");
    });
}
