"""Loads exported LoRA files as their readers do, and compares the weights that come of it with our own merge, tensor by tensor.

    pip install -r tools/goldens/requirements.txt accelerate
    python tools/check_lora.py BASE MERGED LORA...

BASE is the model's checkpoint, MERGED what `Export(lora: Merged(1.0), precision: F32)` wrote, and LORA files that
`Export(lora: Both, precision: F32)` wrote of the same epoch. Files in diffusers' form are loaded by `load_lora_weights`; all are put
through the rules by which ComfyUI finds a LoRA's layers and adds them (comfy/lora.py, comfy/weight_adapter), written here anew.

The result is 0 when every reader comes to the merged weights within 1e-6 of their size, and 1 otherwise.
"""

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

from check_export import MMDIT, shapes_of, write_configuration

TOLERANCE = 1e-6


def main() -> int:
    if len(sys.argv) < 4:
        print(__doc__)
        return 2
    base, merged, *files = map(Path, sys.argv[1:])
    torch.set_grad_enabled(False)
    expected = mmdit(merged)
    before = mmdit(base)
    changed = [name for name in expected if not torch.equal(expected[name], before[name])]
    strength = max(distance(expected[name], before[name]) for name in changed)
    print(f"merged: {len(changed)} of {len(expected)} tensors differ from the base, the most by {strength:.1e} of its size")
    good = True
    for file in files:
        state = load_file(file)
        kohya = any(name.startswith("lora_unet_") for name in state)
        if kohya or not any("lora_magnitude_vector" in name for name in state):
            good &= compare(f"ComfyUI, {file.name}", comfyui(state, mmdit(base)), expected)
        else:
            print(f"ComfyUI, {file.name}: not tried, it knows no magnitudes under diffusers' names")
        if kohya:
            print(f"diffusers, {file.name}: not tried, it reads no SD3 LoRA of this form")
        else:
            good &= compare(f"diffusers, {file.name}", diffusers(file, base), to_diffusers(dict(expected)))
    return 0 if good else 1


def mmdit(path: Path) -> dict[str, torch.Tensor]:
    return {name.removeprefix(MMDIT): value.float() for name, value in load_file(path).items() if name.startswith(MMDIT)}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def compare(reader: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    error, name = max((distance(found[name], expected[name]), name) for name in expected)
    print(f"{reader}: the largest difference is {error:.1e} of the size of {name}")
    return error <= TOLERANCE


def diffusers(file: Path, base: Path) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        write_configuration(Path(folder), shapes_of(base))
        config = json.loads((Path(folder) / "transformer/config.json").read_text())
    transformer = SD3Transformer2DModel.from_config(config)
    transformer.load_state_dict(to_diffusers(mmdit(base)))
    names = ("vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    pipeline = StableDiffusion3Pipeline(transformer=transformer, **dict.fromkeys(names))
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    return pipeline.transformer.state_dict()


def comfyui(state: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`model_lora_keys_unet`, `load_lora` and `calculate_weight`, with a strength of 1."""
    rows = {name: torch.arange(len(value)) for name, value in weights.items() if name.endswith(".weight") and value.ndim > 1}
    targets = {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}": (name, rows[name]) for name in rows}
    # Which rows of which tensor diffusers' names stand for, by sending row numbers through diffusers' own conversion.
    marks, owners = dict(weights), []
    for name in rows:
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
