"""Draws 64 captions of combinations that the demo's model never saw, and counts how many pictures are right.

    python tools/demo_model/measure.py target/release/sd3pipe

The colours are read off the pixels: the background's at the edge, the shape's where a pixel is far from the background.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from draw import Painter, flat
from PIL import Image
from scenes import COLOURS, FORMS, SHAPES, SIDE, Scene, combinations, draw_scene

COUNT = 64
DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo"
EDGE = 6
# Of the distance between black and white; nearer pixels belong to the background, or to the blur between both.
FAR = 0.18

PIPELINE = """Pipeline(
    name: "measure",
    model: (
        checkpoint: "{model}/sd3_tiny.safetensors",
        clip_l: "{model}/clip_l.safetensors",
        clip_g: "{model}/clip_g.safetensors",
        t5xxl: "{model}/t5xxl.safetensors",
        tokenizers: (clip: "{model}/clip_tokenizer.json", t5: "{model}/t5_tokenizer.json"),
    ),
    device: Cpu,
    stages: {{
        "captions": Captions(data: [(path: "{style}", repeats: 1)]),
        "text": EncodeText(t5_tokens: 32, precision: F32),
        "latents": EncodeImages(resolution: 64, buckets: None),
        // A learning rate of 0: what is drawn with is the model as it is.
        "train": Train(epochs: 1, batch: 4, learning_rate: 0.0, precision: F32),
        "export": Export(precision: F16),
        "sample": Sample(
            prompts: [{prompts}],
            base: false,
            seeds: [{seed}],
            size: ({side}, {side}),
            steps: 16,
            cfg: 3.0,
            t5_tokens: 32,
            precision: F32,
        ),
    }},
)
"""


def main() -> None:
    binary, seed = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    draws = random.Random(seed)
    scenes = [draw_scene(combination, draws) for combination in draws.sample(combinations(kept_for_test=True), COUNT)]
    captions = [scene.caption(draws.randrange(FORMS)) for scene in scenes]
    with tempfile.TemporaryDirectory() as folder:
        prompts = ", ".join(f'"{caption}"' for caption in captions)
        text = PIPELINE.format(model=DEMO / "model", style=DEMO / "style", prompts=prompts, seed=seed, side=SIDE)
        (Path(folder) / "measure.ron").write_text(text)
        subprocess.run([binary, "run", "measure.ron", "--store", "store"], cwd=folder, check=True, capture_output=True)
        samples = Path(folder) / "out" / "measure" / "samples"
        images = [Image.open(samples / f"epoch-1-prompt-{n + 1}-seed-{seed}.png").convert("RGB") for n in range(COUNT)]
    silhouettes = outlines()
    right = {"colour": 0, "background": 0, "both colours": 0, "shape": 0, "all three": 0}
    for scene, caption, image in zip(scenes, captions, images):
        found = judge(np.asarray(image, dtype=np.float64), silhouettes)
        colour, background = found.get("colour") == scene.colour, found["background"] == scene.background
        shape = found.get("shape") == scene.shape
        both, everything = colour and background, colour and background and shape
        for name, is_right in zip(right, [colour, background, both, shape, everything]):
            right[name] += is_right
        if not everything:
            print(f"{caption}: {found}")
    for name, number in right.items():
        print(f"{name:14}{number:3} of {COUNT}  {100 * number / COUNT:5.1f} %")


def judge(pixels: np.ndarray, silhouettes: dict[str, np.ndarray]) -> dict[str, str]:
    """The names of what an image shows; no colour and shape where there is nothing but background."""
    inner = pixels[EDGE:-EDGE, EDGE:-EDGE]
    frame = np.ones(pixels.shape[:2], dtype=bool)
    frame[EDGE:-EDGE, EDGE:-EDGE] = False
    ground = np.median(pixels[frame], axis=0)
    found = {"background": nearest(ground)}
    distance = np.linalg.norm(inner - ground, axis=-1) / np.linalg.norm([255, 255, 255])
    mask = distance > FAR
    if mask.sum() < 60:
        return found
    # The half that is farthest off: the rest has the blur of the edge in it.
    inside = inner[mask & (distance >= np.median(distance[mask]))]
    found["colour"] = nearest(np.median(inside, axis=0))
    mine = normal(mask)
    likeness = {name: (mine & other).sum() / (mine | other).sum() for name, other in silhouettes.items()}
    found["shape"] = max(likeness, key=likeness.get)
    return found


def nearest(colour: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: np.linalg.norm(colour - np.array(COLOURS[name])))


def outlines() -> dict[str, np.ndarray]:
    """Every shape as `normal` leaves it."""
    scenes = [Scene(shape, "black", "white", "", "", SIDE / 2, SIDE / 2, 40, 0.0) for shape in SHAPES]
    images = Painter().paint(scenes, flat(len(scenes)))
    return {scene.shape: normal((image[0] < 0).numpy()) for scene, image in zip(scenes, images)}


def normal(mask: np.ndarray) -> np.ndarray:
    """The part of a mask that holds it, scaled to 48 by 48."""
    rows, columns = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scaled = torch.nn.functional.interpolate(torch.from_numpy(part)[None, None].float(), (48, 48), mode="bilinear")
    return scaled[0, 0].numpy() > 0.5


if __name__ == "__main__":
    main()
