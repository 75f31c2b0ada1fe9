"""Goldens of the running mean of weights: diffusers' EMAModel over weights that jump about, after each of twelve steps."""

import torch
from diffusers.training_utils import EMAModel

from formula import save, uniform

SHAPES = {"matrix.weight": [8, 5], "bias": [6]}
STEPS = 12

# Name, our settings, the reference's. A decay of 0.5 is reached at the ninth step.
CASES = [
    ("ratio", {}, {}),
    ("bounded", {"decay": 0.5}, {"decay": 0.5}),
    ("late", {"decay": 0.99, "after": 3}, {"decay": 0.99, "update_after_step": 3}),
    ("power", {"warmup": {"Power": {}}}, {"use_ema_warmup": True}),
    ("slow power", {"warmup": {"Power": {"gamma": 5.0, "power": 0.75}}},
     {"use_ema_warmup": True, "inv_gamma": 5.0, "power": 0.75}),
]

tensors = {}
for case, _, settings in CASES:
    parameters = {name: torch.nn.Parameter(uniform(name, shape)) for name, shape in SHAPES.items()}
    # What is not trained is copied.
    parameters["pos_embed"] = torch.nn.Parameter(uniform("pos_embed", [24]), requires_grad=False)
    mean = EMAModel(list(parameters.values()), **settings)
    for step in range(STEPS):
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.requires_grad:
                    parameter.copy_(uniform(f"{name} {step}", list(parameter.shape)))
        mean.step(list(parameters.values()))
        for name, values in zip(parameters, mean.shadow_params):
            if name != "pos_embed":
                tensors[f"{case} {step}/{name}"] = values.clone()

config = {"steps": STEPS, "cases": [{"name": name, "average": average} for name, average, _ in CASES]}
save("average", SHAPES, config, tensors, libraries=("torch", "diffusers", "safetensors", "numpy"))
