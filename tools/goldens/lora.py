"""Goldens of training adapters: as train.py, with PEFT's LoRA and DoRA in every layer that can have one, once of both CLIPs too.

The tensors that are trained have our names; which of PEFT's modules has which of their rows follows from how mmdit.py converts
the weights. Where queries, keys and values share one half that reads, PEFT's three modules are given the same tensor."""

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig

import clip
from formula import load, uniform, weight, weights
from mmdit import FORMS, configuration, single_file_shapes, to_diffusers
from train import ten_steps

FORM, RANK, ALPHA = "3.5-medium", 4, 6
CASES = {
    "lora": dict(split=False, dora=False),
    "lora-split": dict(split=True, dora=False),
    "dora": dict(split=False, dora=True),
    "lora-clips": dict(split=False, dora=False, clips=True),
}

# Of the CLIPs: activation, whether there is a projection, what texts are filled up with.
CLIPS = {"clip_l": ("quick_gelu", False, clip.END), "clip_g": ("gelu", True, 0)}
TEXT, T5_ROWS, T5_CONTEXT = 10, 3, 2 * clip.WIDTH + 16


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


def token_ids(name, samples, padding):
    """Texts of two to seven words between start and end."""
    drawn = ((uniform(f"{name} ids", [samples, TEXT]) + 1) / 2).tolist()
    texts = [[98, *(int(value * 98) for value in row[1:3 + int(row[0] * 6)]), clip.END] for row in drawn]
    return torch.tensor([text + [padding] * (TEXT - len(text)) for text in texts])


def encoders(start, trained, dora):
    """Adds to `start` and `trained` an adapter of every layer of both CLIPs, and returns their shapes and what they make of a batch."""
    shapes, networks = {}, {}
    for name, (activation, projected, padding) in CLIPS.items():
        own, _, model = clip.network(activation, projected)
        shapes |= {f"{name}.{key}": shape for key, shape in own.items()}
        layers = [path for path, module in model.named_modules() if ".layers." in path and isinstance(module, torch.nn.Linear)]
        model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers, use_dora=dora))
        given = {}
        for layer in layers:
            # Our names are those of the files; the library has dropped a part of them here and there.
            ours = f"text_model.{layer}".replace("text_model.text_model.", "text_model.")
            outputs, inputs = own[f"{ours}.weight"]
            for half, theirs, shape in (
                ("lora_down.weight", "lora_A.default.weight", [RANK, inputs]),
                ("lora_up.weight", "lora_B.default.weight", [outputs, RANK]),
            ):
                key = f"{name}.{ours}.{half}"
                start[key] = weight(key, shape) * (0.1 if "up" in half else 1)
                given[f"{layer}.{theirs}"] = key
        networks[name] = (model, given, padding)

    def conditioning(name, samples):
        states, pooled = [], []
        for encoder, (model, given, padding) in networks.items():
            tensors = {theirs: trained[ours] for theirs, ours in given.items()}
            ids = token_ids(name, samples, padding)
            output = torch.func.functional_call(model, tensors, (), dict(input_ids=ids, output_hidden_states=True))
            # Every third text is kept from CLIP-G.
            kept = torch.tensor([0.0 if encoder == "clip_g" and index % 3 == 1 else 1.0 for index in range(samples)])
            states.append(output.hidden_states[-2] * kept.view(-1, 1, 1))
            pooled.append(output.text_embeds * kept.view(-1, 1))
        rows = torch.nn.functional.pad(torch.cat(states, dim=-1), (0, T5_CONTEXT - 2 * clip.WIDTH))
        t5 = uniform(f"{name} t5", [samples, T5_ROWS, T5_CONTEXT])
        return torch.cat([rows, t5], dim=1), torch.cat(pooled, dim=-1)

    return shapes, conditioning


def golden(case, split, dora, clips=False):
    arguments = FORMS[FORM] | (dict(context=T5_CONTEXT, pooled=2 * clip.WIDTH) if clips else {})
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
    trained = {}
    encoder_shapes, conditioning = encoders(start, trained, dora) if clips else ({}, None)
    trained |= {name: value.clone().requires_grad_() for name, value in sorted(start.items())}

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
    ten_steps(f"train-{case}", shapes | encoder_shapes, config | adapter, start, trained, network, conditioning)


if __name__ == "__main__":
    for case, arguments in CASES.items():
        golden(case, **arguments)
