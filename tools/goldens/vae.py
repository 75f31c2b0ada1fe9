"""Goldens of the VAE, by diffusers' AutoencoderKL."""

import torch
from diffusers import AutoencoderKL

from formula import load, save, uniform, weights

LATENTS = 16


def single_file_shapes(channels, blocks):
    shapes = {}

    def convolution(name, outputs, inputs, kernel=3):
        shapes[f"{name}.weight"] = [outputs, inputs, kernel, kernel]
        shapes[f"{name}.bias"] = [outputs]

    def norm(name, width):
        shapes[f"{name}.weight"] = [width]
        shapes[f"{name}.bias"] = [width]

    def residual(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        convolution(f"{name}.conv1", outputs, inputs)
        norm(f"{name}.norm2", outputs)
        convolution(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            convolution(f"{name}.nin_shortcut", outputs, inputs, 1)

    def middle(name, width):
        residual(f"{name}.block_1", width, width)
        norm(f"{name}.attn_1.norm", width)
        for projection in ("q", "k", "v", "proj_out"):
            convolution(f"{name}.attn_1.{projection}", width, width, 1)
        residual(f"{name}.block_2", width, width)

    width = channels[0]
    convolution("encoder.conv_in", width, 3)
    for level, outputs in enumerate(channels):
        for block in range(blocks):
            residual(f"encoder.down.{level}.block.{block}", width, outputs)
            width = outputs
        if level < len(channels) - 1:
            convolution(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder.mid", width)
    norm("encoder.norm_out", width)
    convolution("encoder.conv_out", 2 * LATENTS, width)

    convolution("decoder.conv_in", width, LATENTS)
    middle("decoder.mid", width)
    for level, outputs in reversed(list(enumerate(channels))):
        for block in range(blocks + 1):
            residual(f"decoder.up.{level}.block.{block}", width, outputs)
            width = outputs
        if level > 0:
            convolution(f"decoder.up.{level}.upsample.conv", width, width)
    norm("decoder.norm_out", width)
    convolution("decoder.conv_out", 3, width)
    return shapes


def to_diffusers(single, levels):
    state = {}
    for name, value in single.items():
        half, rest = name.split(".", 1)
        parts = rest.split(".")
        if parts[0] == "norm_out":
            parts[0] = "conv_norm_out"
        elif parts[0] == "mid" and parts[1] == "attn_1":
            renamed = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
            if parts[2] != "norm" and parts[3] == "weight":
                value = value.squeeze(3).squeeze(2)
            parts = ["mid_block.attentions.0", renamed[parts[2]], parts[3]]
        elif parts[0] == "mid":
            parts = ["mid_block.resnets", {"block_1": "0", "block_2": "1"}[parts[1]], *parts[2:]]
        elif parts[0] in ("down", "up"):
            level = int(parts[1]) if parts[0] == "down" else levels - 1 - int(parts[1])
            rename = {"block": "resnets", "downsample": "downsamplers.0", "upsample": "upsamplers.0"}
            parts = [f"{parts[0]}_blocks.{level}", rename[parts[2]], *parts[3:]]
        new = f"{half}." + ".".join(parts)
        state[new.replace("nin_shortcut", "conv_shortcut")] = value
    return state


def configuration(channels, blocks, groups):
    return dict(
        in_channels=3, out_channels=3, latent_channels=LATENTS, block_out_channels=tuple(channels),
        layers_per_block=blocks, down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels), norm_num_groups=groups, act_fn="silu",
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609,
    )


def golden(name, channels, blocks, groups):
    shapes, config = single_file_shapes(channels, blocks), configuration(channels, blocks, groups)
    model = load(AutoencoderKL(**config), to_diffusers(weights(shapes), len(channels)))
    images = uniform("input images", [2, 3, 24, 16])
    latents = uniform("input raw latents", [2, LATENTS, 6, 4])
    distribution = model.encode(images).latent_dist
    save(name, shapes, config, {
        "images": images,
        "mean": distribution.mean,
        "log_variance": distribution.logvar,
        "raw": latents,
        "decoded": model.decode(latents).sample,
    })


def goldens():
    golden("vae", channels=[32, 64, 64], blocks=2, groups=32)
    golden("vae-narrow", channels=[16, 16], blocks=1, groups=16)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    goldens()
