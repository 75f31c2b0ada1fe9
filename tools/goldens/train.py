"""Goldens of training: losses, the first step's gradients, and the weights after ten steps.

diffusers' SD3Transformer2DModel, noised as in its train_dreambooth_sd3.py (without preconditioned outputs), torch.optim.AdamW,
torch.nn.utils.clip_grad_norm_ and transformers' cosine schedule."""

import torch
from diffusers import SD3Transformer2DModel
from transformers import get_cosine_schedule_with_warmup

from formula import load, save, sketch, uniform, weights
from mmdit import CHANNELS, CONTEXT, FORMS, POOLED, configuration, single_file_shapes, to_diffusers

# So large a decay that it shows whether it comes before the update or after it.
STEPS, WARMUP, LEARNING_RATE, WEIGHT_DECAY, LARGEST_NORM = 10, 2, 1e-3, 1.0, 1.75
TOKENS, SCALE, SHIFT = 7, 1.5305, 0.0609


def batches(step):
    """Samples, rows and columns of each batch: two of the steps add up batches of unequal length and size."""
    return {3: [(2, 6, 10), (1, 8, 4)], 7: [(1, 8, 4), (3, 6, 10)]}.get(step, [(2, 6, 10)])


def velocity_and_target(network, name, samples, rows, columns):
    raw = uniform(f"{name} raw", [samples, CHANNELS, rows, columns])
    noise = uniform(f"{name} noise", list(raw.shape))
    sigma = uniform(f"{name} sigma", [samples]) * 0.5 + 0.5
    latents = (raw - SHIFT) * SCALE
    levels = sigma.view(-1, 1, 1, 1)
    velocity = network(
        hidden_states=(1 - levels) * latents + levels * noise, timestep=sigma * 1000,
        encoder_hidden_states=uniform(f"{name} context", [samples, TOKENS, CONTEXT]),
        pooled_projections=uniform(f"{name} pooled", [samples, POOLED]), return_dict=False,
    )[0]
    return velocity, noise - latents


def train(form, depth, qk_norm, dual):
    shapes, config = single_file_shapes(depth, qk_norm, dual), configuration(depth, qk_norm, dual)
    start = weights(shapes)
    model = load(SD3Transformer2DModel(**config), to_diffusers(start, depth))
    trained = {name: value.clone().requires_grad_() for name, value in sorted(start.items()) if name != "pos_embed"}

    def network(**inputs):
        single = {"pos_embed": start["pos_embed"]} | trained
        return torch.func.functional_call(model, to_diffusers(single, depth), (), inputs)

    ten_steps(f"train-{form}", shapes, config, start, trained, network)


def ten_steps(name, shapes, config, start, trained, network):
    """Trains the tensors `trained` of a `network`, which were `start`, and keeps what was measured."""
    optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
    measured, first = [], None
    for step in range(STEPS):
        samples = sum(count for count, _, _ in batches(step))
        total = 0.0
        for index, (count, rows, columns) in enumerate(batches(step)):
            velocity, target = velocity_and_target(network, f"step {step} batch {index}", count, rows, columns)
            # The mean over all samples of the step of each sample's own mean.
            loss = (velocity - target).square().mean(dim=(1, 2, 3)).sum() / samples
            loss.backward()
            total += loss.item()
        if step == 0:
            first = torch.stack([sketch(key, value.grad) for key, value in trained.items()])
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), LARGEST_NORM)
        measured.append([total, norm.item(), schedule.get_last_lr()[0]])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    updates = torch.stack([sketch(key, value - start[key]) for key, value in trained.items()])
    print(name, *[f"loss {loss:.4f} norm {norm:.4f} rate {rate:.1e}" for loss, norm, rate in measured], sep="\n  ")
    settings = dict(warmup=WARMUP, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, largest_norm=LARGEST_NORM)
    save(name, shapes, config | settings | {"batches": [batches(step) for step in range(STEPS)]}, {
        "measured": torch.tensor(measured, dtype=torch.float64),
        "gradients": first,
        "updates": updates,
    })


if __name__ == "__main__":
    for form, arguments in FORMS.items():
        train(form, **arguments)
