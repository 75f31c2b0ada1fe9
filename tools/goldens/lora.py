"""Goldens of training adapters: as train.py, with PEFT's LoRA and DoRA in every layer that can have one.

The tensors that are trained have our names; which of PEFT's modules has which of their rows follows from how mmdit.py converts
the weights. Where queries, keys and values share one half that reads, PEFT's three modules are given the same tensor."""

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig

from formula import load, uniform, weight, weights
from mmdit import FORMS, configuration, single_file_shapes, to_diffusers
from train import ten_steps

FORM, RANK, ALPHA = "3.5-medium", 4, 6
CASES = {"lora": dict(split=False, dora=False), "lora-split": dict(split=True, dora=False), "dora": dict(split=False, dora=True)}


def modules(shapes, depth):
    """Of each layer of diffusers: ours, and which of its rows it has in which order."""
    layers = [name for name, shape in shapes.items() if len(shape) > 1 and name != "pos_embed"]
    marks, first = {name: torch.zeros(shape[:1]) for name, shape in shapes.items()}, 0
    owners = []
    for name in layers:
        marks[name] = torch.arange(first, first + shapes[name][0])
        owners += [name.removesuffix(".weight")] * shapes[name][0]
        first += shapes[name][0]
    found = {}
    for name, rows in to_diffusers(marks, depth).items():
        owner = owners[int(rows[0])] if name.endswith(".weight") and rows.dtype == torch.int64 else None
        if owner:
            found[name.removesuffix(".weight")] = (owner, rows - marks[f"{owner}.weight"][0])
    return found


def site(owner, rows, split):
    """What the adapter of these rows is called, and the rows that it has."""
    if split and owner.endswith(".qkv"):
        third = len(rows)
        return f"{owner}.{'qkv'[int(rows[0]) // third]}", rows % third
    return owner, rows


def golden(case, split, dora):
    arguments = FORMS[FORM]
    depth = arguments["depth"]
    shapes, config = single_file_shapes(**arguments), configuration(**arguments)
    single = weights(shapes)
    model = load(SD3Transformer2DModel(**config), to_diffusers(single, depth)).train()
    found = modules(shapes, depth)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(found), use_dora=dora))

    start = {}
    for owner, rows in found.values():
        name, _ = site(owner, rows, split)
        outputs, inputs = (len(rows) if name != owner else shapes[f"{owner}.weight"][0]), single[f"{owner}.weight"][0].numel()
        for key, shape in ((f"{name}.lora_down.weight", [RANK, inputs]), (f"{name}.lora_up.weight", [outputs, RANK])):
            # Small, as after some training.
            start[key] = weight(key, shape) * (0.1 if "up" in key else 1)
        if dora:
            key = f"{name}.lora_magnitude_vector"
            lengths = single[f"{owner}.weight"].flatten(1).double().norm(dim=1).float()
            start[key] = lengths * (1 + 0.1 * uniform(key, [outputs]))
    trained = {name: value.clone().requires_grad_() for name, value in sorted(start.items())}

    def network(**inputs):
        given = {}
        for module, (owner, rows) in found.items():
            name, rows = site(owner, rows, split)
            for ours, theirs in (("lora_down.weight", "lora_A.default.weight"), ("lora_up.weight", "lora_B.default.weight")):
                value = trained[f"{name}.{ours}"]
                value = value if ours == "lora_down.weight" else value[rows]
                # A convolution's have two sides more.
                given[f"{module}.{theirs}"] = value.reshape(model.get_parameter(f"{module}.{theirs}").shape)
            if dora:
                key = f"{module}.lora_magnitude_vector.default.weight"
                given[key] = trained[f"{name}.lora_magnitude_vector"][rows].reshape(model.get_parameter(key).shape)
        return torch.func.functional_call(model, given, (), inputs)

    adapter = dict(scale=ALPHA / RANK, adapter={name: list(value.shape) for name, value in start.items()})
    ten_steps(f"train-{case}", shapes, config | adapter, start, trained, network)


if __name__ == "__main__":
    for case, arguments in CASES.items():
        golden(case, **arguments)
