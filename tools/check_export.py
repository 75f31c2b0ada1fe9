"""Opens an export in diffusers as its users do, draws an image from the same noise, and compares it with ours.

    pip install -r tools/goldens/requirements.txt accelerate
    python tools/check_export.py EXPORT IMAGE --clip-l FILE --clip-g FILE --t5xxl FILE --clip-tokenizer FILE --t5-tokenizer FILE

EXPORT is a checkpoint of an `Export` stage, one file or a folder, and IMAGE a PNG that a `Sample` stage with `precision: F32`
drew with it; the image says by which settings. A single file is also held to the rules by which ComfyUI recognises a model.
Nothing is fetched: what diffusers would look up about a released model is written here, from the shapes of the tensors.

The result is 0 when no byte of the image differs by more than the tolerance, and 1 otherwise.
"""

import argparse
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from blake3 import blake3
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast, T5Config, T5EncoderModel

MMDIT = "model.diffusion_model."
VAE = "first_stage_model."
HEAD = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("image", type=Path)
    for encoder in ("clip-l", "clip-g", "t5xxl"):
        parser.add_argument(f"--{encoder}", type=Path, help="its own file; not needed for a folder that has it inside")
    parser.add_argument("--clip-tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--t5-tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--t5-tokens", type=int, default=256, help="as in the Sample stage")
    parser.add_argument("--tolerance", type=int, default=1, help="of a byte of the image")
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.export.is_dir():
            pipeline = open_folder(arguments)
        else:
            for line in comfyui(shapes_of(arguments.export)):
                print(f"ComfyUI: {line}")
            pipeline = open_single_file(arguments, Path(folder))
    return compare(pipeline, arguments)


# The export in diffusers


def open_single_file(arguments: argparse.Namespace, folder: Path) -> StableDiffusion3Pipeline:
    """`from_single_file` with the encoders passed, and the configuration of the base model from a folder."""
    shapes = shapes_of(arguments.export)
    write_configuration(folder, shapes)
    clip_tokenizers(arguments.clip_tokenizer, folder)
    t5_tokenizer(arguments.t5_tokenizer).save_pretrained(folder / "tokenizer_3")
    pipeline = StableDiffusion3Pipeline.from_single_file(
        str(arguments.export), config=str(folder), dtype=torch.float32, **encoders(arguments)
    )
    regroup(pipeline.vae)
    return pipeline


def open_folder(arguments: argparse.Namespace) -> StableDiffusion3Pipeline:
    """`from_pretrained`, with what the folder does not have passed."""
    index = json.loads((arguments.export / "model_index.json").read_text())
    passed = {name: encoder for name, encoder in encoders(arguments).items() if index[name][0] is None}
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = clip_tokenizers(arguments.clip_tokenizer, Path(folder)) if arguments.clip_tokenizer else {}
        if arguments.t5_tokenizer:
            tokenizers["tokenizer_3"] = t5_tokenizer(arguments.t5_tokenizer)
    passed |= {name: tokenizer for name, tokenizer in tokenizers.items() if index[name][0] is None}
    # A model without T5: diffusers wants to be told.
    for name in ("text_encoder_3", "tokenizer_3"):
        if index[name][0] is None:
            passed.setdefault(name, None)
    return StableDiffusion3Pipeline.from_pretrained(str(arguments.export), dtype=torch.float32, **passed)


def encoders(arguments: argparse.Namespace) -> dict[str, torch.nn.Module]:
    """Those whose files were given, by their names in the pipeline."""
    found = {}
    for name, path, activation in [
        ("text_encoder", arguments.clip_l, "quick_gelu"),
        ("text_encoder_2", arguments.clip_g, "gelu"),
    ]:
        if path:
            found[name] = clip(load_file(path), activation)
    if arguments.t5xxl:
        found["text_encoder_3"] = t5(load_file(arguments.t5xxl))
    return found


def clip(state: dict[str, torch.Tensor], activation: str) -> CLIPTextModelWithProjection:
    tokens = state["text_model.embeddings.token_embedding.weight"]
    width = tokens.shape[1]
    # CLIP-L's files have no projection, which then is the identity.
    state.setdefault("text_projection.weight", torch.eye(width))
    config = CLIPTextConfig(
        vocab_size=tokens.shape[0],
        hidden_size=width,
        intermediate_size=state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=count(state, "text_model.encoder.layers.{}.mlp.fc1.weight"),
        num_attention_heads=width // HEAD,
        max_position_embeddings=state["text_model.embeddings.position_embedding.weight"].shape[0],
        projection_dim=state["text_projection.weight"].shape[0],
        hidden_act=activation,
        eos_token_id=2,
    )
    return filled(CLIPTextModelWithProjection(config), state)


def t5(state: dict[str, torch.Tensor]) -> T5EncoderModel:
    attention = "encoder.block.0.layer.0.SelfAttention"
    heads = state[f"{attention}.relative_attention_bias.weight"].shape[1]
    config = T5Config(
        vocab_size=state["shared.weight"].shape[0],
        d_model=state["shared.weight"].shape[1],
        d_kv=state[f"{attention}.q.weight"].shape[0] // heads,
        d_ff=state["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        num_layers=count(state, "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        num_heads=heads,
        feed_forward_proj="gated-gelu",
    )
    state.setdefault("encoder.embed_tokens.weight", state["shared.weight"])
    return filled(T5EncoderModel(config), state)


def filled(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    unexpected = model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    assert not [name for name in unexpected.missing_keys if "position_ids" not in name], unexpected
    return model.eval()


def clip_tokenizers(path: Path, folder: Path) -> dict[str, PreTrainedTokenizerFast]:
    """CLIP-L pads with the text's end and CLIP-G with id 0; both are saved to the folder too."""
    made = {}
    for name, first in [("tokenizer", False), ("tokenizer_2", True)]:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path), bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
        )
        tokenizer.model_max_length = 77
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0) if first else "<|endoftext|>"
        tokenizer.save_pretrained(folder / name)
        made[name] = tokenizer
    return made


def t5_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path), eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=512
    )


def write_configuration(folder: Path, shapes: dict[str, list[int]]) -> None:
    """What `config=` points to: the base model's folder without its weights."""
    width, channels, patch, _ = shapes[f"{MMDIT}x_embedder.proj.weight"]
    grid = math.isqrt(shapes[f"{MMDIT}pos_embed"][1])
    dual = [n for n in range(width) if f"{MMDIT}joint_blocks.{n}.x_block.attn2.qkv.weight" in shapes]
    levels = count(shapes, VAE + "encoder.down.{}.block.0.conv1.weight")
    widths = [shapes[f"{VAE}encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    plain = "PreTrainedTokenizerFast"
    files = {
        "model_index.json": {
            "_class_name": "StableDiffusion3Pipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_3": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", plain],
            "tokenizer_2": ["transformers", plain],
            "tokenizer_3": ["transformers", plain],
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        "transformer/config.json": {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": min(128, grid * patch),
            "patch_size": patch,
            "in_channels": channels,
            "out_channels": channels,
            "num_layers": count(shapes, MMDIT + "joint_blocks.{}.x_block.attn.qkv.weight"),
            "attention_head_dim": HEAD,
            "num_attention_heads": width // HEAD,
            "joint_attention_dim": shapes[f"{MMDIT}context_embedder.weight"][1],
            "caption_projection_dim": width,
            "pooled_projection_dim": shapes[f"{MMDIT}y_embedder.mlp.0.weight"][1],
            "pos_embed_max_size": grid,
            "dual_attention_layers": dual,
            "qk_norm": "rms_norm" if f"{MMDIT}joint_blocks.0.x_block.attn.ln_q.weight" in shapes else None,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": widths,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": count(shapes, VAE + "encoder.down.0.block.{}.conv1.weight"),
            "latent_channels": channels,
            "norm_num_groups": min(32, *widths),
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def regroup(vae: torch.nn.Module) -> None:
    """A VAE narrower than any released one: where there are fewer than 32 channels, ours has a group for each."""
    norms = [module for module in vae.modules() if isinstance(module, torch.nn.GroupNorm)]
    odd = [norm for norm in norms if norm.num_groups != min(32, norm.num_channels)]
    for norm in odd:
        norm.num_groups = min(32, norm.num_channels)
    if odd:
        print(f"note: {len(odd)} norms of this VAE have other groups than diffusers can be told of; set by hand")


# ComfyUI


def comfyui(shapes: dict[str, list[int]]) -> list[str]:
    """What `detect_unet_config` and its neighbours conclude; an assertion where they would give up."""
    prefixes = {start: sum(name.startswith(start) for name in shapes) for start in (MMDIT, "model.model.", "net.")}
    assert max(prefixes, key=prefixes.get) == MMDIT and prefixes[MMDIT] > 5, "the MMDiT is not found by its prefix"
    mmdit = {name.removeprefix(MMDIT): shape for name, shape in shapes.items() if name.startswith(MMDIT)}
    assert "joint_blocks.0.context_block.attn.qkv.weight" in mmdit, "it is not recognised as an MMDiT"
    width, channels, patch, _ = mmdit["x_embedder.proj.weight"]
    depth = width // 64
    config = {
        "in_channels": channels,
        "patch_size": patch,
        "out_channels": mmdit["final_layer.linear.weight"][0] // patch**2,
        "depth": depth,
        "input_size": None,
        "adm_in_channels": mmdit["y_embedder.mlp.0.weight"][1],
        "context_embedder": [mmdit["context_embedder.weight"][1], mmdit["context_embedder.weight"][0]],
        "pos_embed_max_size": round(math.sqrt(mmdit["pos_embed"][1])),
        "qk_norm": "rms" if "joint_blocks.0.context_block.attn.ln_q.weight" in mmdit else None,
        "x_block_self_attn_layers": [n for n in range(1000) if f"joint_blocks.{n}.x_block.attn2.qkv.weight" in mmdit],
    }
    assert config["in_channels"] == 16 and config["out_channels"] == 16, "it is not recognised as an SD3"
    assert config["context_embedder"][1] == width, "the context does not fit the width"
    lines = [f"SD3 with {', '.join(f'{name} {value}' for name, value in config.items() if value is not None)}"]
    blocks = count(mmdit, "joint_blocks.{}.x_block.attn.qkv.weight")
    if blocks != depth:
        lines.append(f"note: it takes the depth for width / 64, and this model has {blocks} blocks: a toy, no released model")
    vae = [name for name in shapes if name.startswith(VAE)]
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.down.2.downsample.conv.weight"):
        assert VAE + name in vae, f"the VAE has no {name}"
    assert shapes[f"{VAE}decoder.conv_in.weight"][1] == 16, "the VAE has not 16 channels"
    lines.append(f"VAE of {len(vae)} tensors")
    inside = [name for name in ("clip_l", "clip_g", "t5xxl") if any(k.startswith(f"text_encoders.{name}.") for k in shapes)]
    lines.append(f"text encoders inside: {', '.join(inside) or 'none; they are loaded on their own'}")
    others = [k for k in shapes if not k.startswith((MMDIT, VAE, "text_encoders."))]
    assert not others, f"unknown tensors {others[:3]}"
    return lines


# The image


def sample_noise(seed: int, count: int) -> np.ndarray:
    """`Draws::new(seed, "sample noise", 0, "")` of stages/src/random.rs, `count` normals."""
    message = b"".join(
        len(field).to_bytes(8, "little") + field
        for field in (seed.to_bytes(8, "little"), b"sample noise", (0).to_bytes(8, "little"), b"")
    )
    pairs = (count + 1) // 2
    output = blake3(message, derive_key_context="sd3pipe random v1").digest(length=16 * pairs)
    bits = np.frombuffer(output, dtype="<u8").reshape(pairs, 2)
    uniform = (bits >> np.uint64(11)).astype(np.float64) / 2**53
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * np.pi * uniform[:, 1]
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
    return normals.astype(np.float32)


def compare(pipeline: StableDiffusion3Pipeline, arguments: argparse.Namespace) -> int:
    ours = Image.open(arguments.image)
    ours.load()
    sampler = re.fullmatch(r"Euler, (\d+) steps, shift ([\d.]+), cfg ([\d.]+), seed (\d+)", ours.text["sampler"])
    steps, shift, cfg, seed = (float(number) for number in sampler.groups())
    pipeline.scheduler.register_to_config(shift=shift)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    shape = (1, pipeline.transformer.config.in_channels, ours.height // 8, ours.width // 8)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompt=str(ours.text["prompt"]),
        negative_prompt=str(ours.text["negative prompt"]),
        height=ours.height,
        width=ours.width,
        num_inference_steps=int(steps),
        guidance_scale=cfg,
        max_sequence_length=arguments.t5_tokens,
        latents=torch.from_numpy(sample_noise(int(seed), math.prod(shape))).reshape(shape),
    ).images[0]
    difference = np.abs(np.asarray(drawn, dtype=int) - np.asarray(ours.convert("RGB"), dtype=int))
    spread = np.asarray(ours.convert("RGB"), dtype=float).std()
    print(
        f"diffusers' image of {ours.text['prompt']!r}: largest difference {difference.max()}, "
        f"{(difference > 0).mean():.2%} of the bytes differ (the image's own deviation is {spread:.1f})"
    )
    if difference.max() <= arguments.tolerance:
        print("the same image")
        return 0
    print("ANOTHER IMAGE")
    return 1


# Shapes


def shapes_of(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}


def count(names: dict, pattern: str) -> int:
    n = 0
    while pattern.format(n) in names:
        n += 1
    return n


if __name__ == "__main__":
    sys.exit(main())
