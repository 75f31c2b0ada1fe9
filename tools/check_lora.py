"""Loads exported LoRA files as their readers do, and compares the weights that come of it with our own merge, tensor by tensor.

    pip install -r tools/goldens/requirements.txt accelerate
    python tools/check_lora.py BASE MERGED LORA... [--clip-l FILE --clip-g FILE]

BASE is the model's checkpoint, MERGED what `Export(lora: Merged(1.0), precision: F32)` wrote, and LORA files that
`Export(lora: Both, precision: F32)` wrote of the same epoch. Of an adapter of the CLIPs, MERGED has them inside (`text_encoders: true`),
and the model's own are given too. Files in diffusers' form are loaded by `load_lora_weights`; all are put
through the rules by which ComfyUI finds a LoRA's layers and adds them (comfy/lora.py, comfy/weight_adapter), written here anew.

The result is 0 when every reader comes to the merged weights within 1e-6 of their size, and 1 otherwise.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers as to_diffusers
from safetensors.torch import load_file

from check_export import MMDIT, clip, shapes_of, write_configuration

TOLERANCE = 1e-6


ENCODERS = {"clip_l": ("text_encoder", "lora_te1_", "quick_gelu"), "clip_g": ("text_encoder_2", "lora_te2_", "gelu")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("merged", type=Path)
    parser.add_argument("lora", type=Path, nargs="+")
    for name in ENCODERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    own = {name: getattr(arguments, name) for name in ENCODERS if getattr(arguments, name)}
    expected, before = model(arguments.merged, own, inside=True), model(arguments.base, own)
    changed = [name for name in expected if not torch.equal(expected[name], before[name])]
    strength = max(distance(expected[name], before[name]) for name in changed)
    print(f"merged: {len(changed)} of {len(expected)} tensors differ from the base, the most by {strength:.1e} of its size")
    for name in own:
        print(f"  of {name}: {sum(key.startswith(f'{name}.') for key in changed)}")
    good = True
    for file in arguments.lora:
        state = load_file(file)
        kohya = any(name.startswith(("lora_unet_", "lora_te")) for name in state)
        if kohya or not any("lora_magnitude_vector" in name for name in state):
            good &= compare(f"ComfyUI, {file.name}", comfyui(state, model(arguments.base, own)), expected)
        else:
            print(f"ComfyUI, {file.name}: not tried, it knows no magnitudes under diffusers' names")
        if kohya:
            print(f"diffusers, {file.name}: not tried, it reads no SD3 LoRA of this form")
        else:
            good &= compare(f"diffusers, {file.name}", diffusers(file, arguments.base, own), as_diffusers(expected))
    return 0 if good else 1


def model(checkpoint: Path, own: dict[str, Path], inside: bool = False) -> dict[str, torch.Tensor]:
    """The MMDiT's tensors by their names, and those of CLIPs after `clip_l.` and `clip_g.`."""
    state = load_file(checkpoint)
    tensors = {name.removeprefix(MMDIT): value.float() for name, value in state.items() if name.startswith(MMDIT)}
    for encoder, path in own.items():
        prefix = f"text_encoders.{encoder}.transformer." if inside else ""
        found = state if inside else load_file(path)
        tensors |= {f"{encoder}.{name.removeprefix(prefix)}": value.float() for name, value in found.items() if name.startswith(prefix)}
    return tensors


def of(network: str | None, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a CLIP by their names in its own file, or of the MMDiT."""
    if network:
        return {name.removeprefix(f"{network}."): value for name, value in tensors.items() if name.startswith(f"{network}.")}
    return {name: value for name, value in tensors.items() if name.split(".")[0] not in ENCODERS}


def as_diffusers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    clips = {name: value for name, value in tensors.items() if name.split(".")[0] in ENCODERS}
    return to_diffusers(of(None, tensors)) | clips


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def compare(reader: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    error, name = max((distance(found[name], expected[name]), name) for name in expected)
    print(f"{reader}: the largest difference is {error:.1e} of the size of {name}")
    return error <= TOLERANCE


def diffusers(file: Path, base: Path, own: dict[str, Path]) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        write_configuration(Path(folder), shapes_of(base))
        config = json.loads((Path(folder) / "transformer/config.json").read_text())
    transformer = SD3Transformer2DModel.from_config(config)
    transformer.load_state_dict(to_diffusers(of(None, model(base, {}))))
    names = ("vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    encoders = {ENCODERS[name][0]: clip(load_file(path), ENCODERS[name][2]) for name, path in own.items()}
    pipeline = StableDiffusion3Pipeline(transformer=transformer, **dict.fromkeys(names) | encoders)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    state = load_file(file)
    adapted = [part for part in ("transformer", *encoders) if any(name.startswith(f"{part}.") for name in state)]
    pipeline.fuse_lora(components=adapted)
    pipeline.unload_lora_weights()
    found = dict(pipeline.transformer.state_dict())
    for name, path in own.items():
        tensors = getattr(pipeline, ENCODERS[name][0]).state_dict()
        # Newer releases of transformers name the layers without what all of them begin with; CLIP-L's file has no projection.
        kept = {key: tensors.get(key, tensors.get(key.removeprefix("text_model."))) for key in load_file(path)}
        found |= {f"{name}.{key}": value for key, value in kept.items()}
    return found


def comfyui(state: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`model_lora_keys_unet`, `model_lora_keys_clip`, `load_lora` and `calculate_weight`, with a strength of 1."""
    rows = {name: torch.arange(len(value)) for name, value in weights.items() if name.endswith(".weight") and value.ndim > 1}
    targets = {}
    for name in rows:
        encoder, _, layer = name.removesuffix(".weight").partition(".")
        if encoder in ENCODERS:
            # With both CLIPs there; alone, CLIP-G would go by the names of CLIP-L.
            folder, prefix, _ = ENCODERS[encoder]
            targets[f"{prefix}{layer.replace('.', '_')}"] = targets[f"{folder}.{layer}"] = (name, rows[name])
        else:
            targets[f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"] = (name, rows[name])
    # Which rows of which tensor diffusers' names stand for, by sending row numbers through diffusers' own conversion.
    marks, owners = of(None, weights), []
    for name in of(None, rows):
        marks[name] = rows[name] + len(owners)
        owners += [(name, row) for row in range(len(rows[name]))]
    for name, mark in to_diffusers(marks).items():
        if mark.dtype == torch.int64 and name.endswith(".weight"):
            owner, first = owners[int(mark[0])]
            targets[f"transformer.{name.removesuffix('.weight')}"] = (owner, mark - mark[0] + first)
    used = set()
    for key, (name, chosen) in targets.items():
        for down, up in (("lora_down", "lora_up"), ("lora_A", "lora_B")):
            if f"{key}.{up}.weight" not in state:
                continue
            mat1, mat2 = (state[f"{key}.{half}.weight"].float() for half in (up, down))
            alpha = state[f"{key}.alpha"].item() / len(mat2) if f"{key}.alpha" in state else 1.0
            weight = weights[name][chosen]
            after = weight + alpha * (mat1.flatten(1) @ mat2.flatten(1)).reshape(weight.shape)
            if f"{key}.dora_scale" in state:
                length = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1)) + torch.finfo(weight.dtype).eps
                after = after * (state[f"{key}.dora_scale"].float() / length)
            weights[name][chosen] = after
            used |= {f"{key}.{half}.weight" for half in (up, down)} | {f"{key}.alpha", f"{key}.dora_scale"}
    left = state.keys() - used
    assert not left, f"ComfyUI would leave out {sorted(left)[:3]}"
    return weights


if __name__ == "__main__":
    sys.exit(main())
