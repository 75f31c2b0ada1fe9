"""Goldens of the optimizers: weights after twelve steps of each, and the states of AdamW in 8 bits after 1, 10 and 100 steps.

Gradients are those of a valley with noise, so that each step depends on those before it. bitsandbytes runs its CPU optimizer with
its own generic quantisation in PyTorch, which is that of its CUDA kernels: the nearest code. Its CPU kernel for 32-bit values looks
codes up in a coarse table, which gives a value of 1e-8 of a block's largest the code of 2e-5."""

import bitsandbytes
import torch
from bitsandbytes.backends.cpu import ops as cpu
from lion_pytorch import Lion
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from transformers.optimization import Adafactor

from formula import save, uniform, weights

SHAPES = {"matrix.weight": [24, 20], "convolution.weight": [6, 5, 2, 2], "bias": [24]}
# One block of the large one is short, and the small one stays in 32 bits.
SHAPES_8_BIT = {"large.weight": [65, 64], "bias": [24]}
STEPS, STEPS_8_BIT = 12, 100
LIBRARIES = ("torch", "transformers", "lion-pytorch", "prodigyopt", "schedulefree", "bitsandbytes", "safetensors", "numpy")

# Name, our optimizer and its settings, the rate that the steps' rates are factors of, the reference.
CASES = [
    ("adamw", {"AdamW": {"weight_decay": 0.1}}, 1e-2, lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1)),
    ("adafactor", {"Adafactor": {"weight_decay": 0.1}}, 1e-2,
     lambda p, lr: Adafactor(p, lr=lr, weight_decay=0.1, scale_parameter=False, relative_step=False)),
    ("adafactor-relative",
     {"Adafactor": {"beta1": 0.9, "scale_parameter": True, "relative_step": True, "epsilon2": 0.3}}, 1.0,
     lambda p, lr: Adafactor(p, beta1=0.9, eps=(1e-30, 0.3))),
    ("adafactor-slow", {"Adafactor": {"relative_step": True, "warmup_init": True, "weight_decay": 0.1}}, 1.0,
     lambda p, lr: Adafactor(p, scale_parameter=False, warmup_init=True, weight_decay=0.1)),
    ("lion", {"Lion": {"weight_decay": 0.5}}, 1e-2, lambda p, lr: Lion(p, lr=lr, weight_decay=0.5)),
    ("prodigy", {"Prodigy": {"weight_decay": 0.1, "d0": 1e-3, "d_coef": 0.1}}, 1.0,
     lambda p, lr: Prodigy(p, lr=lr, weight_decay=0.1, d0=1e-3, d_coef=0.1)),
    ("prodigy-all",
     {"Prodigy": {"weight_decay": 0.1, "d0": 1e-4, "decouple": False, "use_bias_correction": True,
                  "safeguard_warmup": True, "d_coef": 2.0, "growth_rate": 1.5, "beta3": 0.9}}, 1.0,
     lambda p, lr: Prodigy(p, lr=lr, weight_decay=0.1, d0=1e-4, decouple=False, use_bias_correction=True,
                           safeguard_warmup=True, d_coef=2.0, growth_rate=1.5, beta3=0.9)),
    ("schedule-free", {"AdamWScheduleFree": {"weight_decay": 0.1, "r": 1.0}}, 1e-2,
     lambda p, lr: AdamWScheduleFree(p, lr=lr, weight_decay=0.1, r=1.0)),
]


def factor(name, step):
    """The rate of a step. Adafactor's own rates can't be scaled in the reference; the others warm up from 0, Prodigy too."""
    return 1.0 if name in ("adafactor-relative", "adafactor-slow") else min(step, 3) / 3 * (1 - step / 24)


def gradient(name, step, values):
    return (values - uniform(f"{name} target", list(values.shape))) * 0.5 + uniform(f"{name} {step}", list(values.shape)) * 0.1


def steps(name, rate, make):
    trained = {key: value.clone().requires_grad_() for key, value in weights(SHAPES).items()}
    optimizer = make(list(trained.values()), rate)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            if group["lr"] is not None:
                group["lr"] = rate * factor(name, step)
        for key, value in trained.items():
            value.grad = gradient(key, step, value.detach())
        optimizer.step()
    found = {f"{name}/{key}": value.detach().clone() for key, value in trained.items()}
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        found |= {f"{name} result/{key}": value.detach().clone() for key, value in trained.items()}
    return found


def quantise(values, codes, scales, found, block):
    """In place of `_quant_blockwise_fp32_direct`: types other than its kernels' take the generic way."""
    of_values, of_blocks = torch.ops.bitsandbytes.quantize_blockwise(values.double(), codes, block)
    found.copy_(of_values)
    scales.copy_(of_blocks)


def steps_8_bit():
    cpu._quant_blockwise_fp32_direct = quantise
    trained = {key: value.clone().requires_grad_() for key, value in weights(SHAPES_8_BIT).items()}
    optimizer = bitsandbytes.optim.AdamW8bit(list(trained.values()), lr=1e-3, weight_decay=0.1)
    found = {}
    for step in range(STEPS_8_BIT):
        for key, value in trained.items():
            # Of sizes from 0.001 to 1, so that many decades of the codes are seen.
            size = uniform(f"{key} size", list(value.shape)) * 0.45 + 0.55
            value.grad = uniform(f"{key} {step}", list(value.shape)) * size * size * size
        optimizer.step()
        if step + 1 in (1, 10, 100):
            state = optimizer.state[trained["large.weight"]]
            found |= {f"{step + 1}/{key}": state[key].clone() for key in ("state1", "state2", "absmax1", "absmax2")}
    assert optimizer.state[trained["bias"]]["state1"].dtype == torch.float32
    return found | {f"100/{key}": value.detach().clone() for key, value in trained.items()}


if __name__ == "__main__":
    tensors = {}
    for name, _, rate, make in CASES:
        tensors |= steps(name, rate, make)
    cases = [
        {"name": name, "optimizer": ours, "rates": [rate * factor(name, step) for step in range(STEPS)]}
        for name, ours, rate, _ in CASES
    ]
    save("optimizers", SHAPES, {"cases": cases}, tensors, LIBRARIES)
    config = {"learning_rate": 1e-3, "weight_decay": 0.1, "steps": STEPS_8_BIT}
    save("optimizer-8-bit", SHAPES_8_BIT, config, steps_8_bit(), LIBRARIES)
