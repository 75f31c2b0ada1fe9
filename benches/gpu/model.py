"""Writes a model with the sizes of SD3-medium and random weights, and random pictures with captions: what a GPU is measured with.

    python benches/gpu/model.py FOLDER [--pictures 8] [--t5-layers 24] [--square]

The weights have about the magnitudes of real ones (tools/test_model says how), so that activations stay finite. They are drawn on the
GPU where there is one. Needs torch, numpy, safetensors and Pillow."""

import argparse
import pathlib
import random
import sys
import zlib

import numpy
import torch
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools" / "test_model"))

import weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normal(name, shape, deviation, mean=0.0):
    generator = torch.Generator(DEVICE).manual_seed(zlib.crc32(name.encode()))
    drawn = torch.randn(shape, generator=generator, device=DEVICE)
    return (mean + deviation * drawn).to(torch.float16).cpu().numpy()


# Before the others take the slow one from it.
weights.normal = normal

import text_encoders
from transformer import transformer
from vae import vae

ASPECTS = [(1024, 1024), (832, 1216), (1216, 832), (1344, 768), (768, 1344), (1152, 896)]
WORDS = "an old lighthouse over the grey sea with birds under heavy clouds and a red boat near its stairs".split()


def write_model(folder, t5_layers):
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = transformer(width=1536, depth=24, position_grid=192, context_width=4096, pooled_width=2048)
    checkpoint |= vae(channels=128, multipliers=(1, 2, 4, 4), latent_channels=16)
    weights.save(folder / "sd3_medium.safetensors", checkpoint)
    clip_l = text_encoders.clip("clip_l", 768, layers=12, vocabulary=49408, projection=False)
    weights.save(folder / "clip_l.safetensors", clip_l)
    clip_g = text_encoders.clip("clip_g", 1280, layers=32, vocabulary=49408, projection=True)
    weights.save(folder / "clip_g.safetensors", clip_g)
    t5 = text_encoders.t5(4096, layers=t5_layers, heads=64, head_width=64, hidden=10240, vocabulary=32128)
    weights.save(folder / "t5xxl_fp16.safetensors", t5)


def write_pictures(folder, count, square):
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(7)
    for number in range(count):
        width, height = ASPECTS[0] if square else ASPECTS[number % len(ASPECTS)]
        small = numpy.random.default_rng(number).integers(0, 256, (height // 32, width // 32, 3), dtype=numpy.uint8)
        Image.fromarray(small).resize((width, height), Image.BICUBIC).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(" ".join(drawn.sample(WORDS, 8)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--t5-layers", type=int, default=24)
    parser.add_argument("--square", action="store_true", help="all of 1024 × 1024 pixels")
    arguments = parser.parse_args()
    write_model(arguments.folder / "models", arguments.t5_layers)
    write_pictures(arguments.folder / "photos", arguments.pictures, arguments.square)


if __name__ == "__main__":
    main()
