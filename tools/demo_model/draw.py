"""Draws scenes: flat ones, which the model is made of, and ones in the style that the demo teaches it.

    python tools/demo_model/draw.py    # writes pipelines/demo/style/
"""

import math
import random
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scenes import COLOURS, SHAPES, SIDE, Scene, combinations, draw_scene

# Distances to a shape's edge are looked up in a table that spans this many radii to each side.
REACH = 1.5
TABLE = 256

STYLE_PICTURES = 48


class Look(NamedTuple):
    """How scenes are painted; each of shape [B, 1, 1, 1] or [B, 3, 1, 1], lengths in pixels."""

    outline: torch.Tensor
    """Width of the line around the shape; 0 for none."""
    ink: torch.Tensor
    """Colour of the line and of the shadow, from 0 to 1."""
    dots: torch.Tensor
    """How much lighter (or darker, below 0) the dots of the background are, from -1 to 1."""
    hatching: torch.Tensor
    """The same of the stripes on the shape."""
    period: torch.Tensor
    """Of dots and stripes."""
    turn: torch.Tensor
    """Angle of the stripes in radians."""
    shadow: torch.Tensor
    """How far to the right and down the shape's shadow falls; 0 for none."""
    grain: torch.Tensor
    """Deviation of the noise on every pixel."""


def flat(count: int) -> Look:
    nothing = torch.zeros(count, 1, 1, 1)
    return Look(nothing, nothing, nothing, nothing, nothing + 8, nothing, nothing, nothing)


def comic(count: int) -> Look:
    """The demo's style: a black line, a hard shadow, dots behind and stripes on the shape."""
    one = torch.ones(count, 1, 1, 1)
    return Look(4 * one, 0.05 * one, 0.45 * one, -0.35 * one, 8 * one, math.pi / 4 * one, 6 * one, 0 * one)


def wild(count: int) -> Look:
    """Any look at all, so that the autoencoder keeps what a later training may bring."""

    def uniform(low: float, high: float, share: float = 1.0, channels: int = 1) -> torch.Tensor:
        drawn = low + (high - low) * torch.rand(count, channels, 1, 1)
        return drawn * (torch.rand(count, 1, 1, 1) < share)

    return Look(
        outline=uniform(1, 8, 0.6),
        ink=uniform(0, 1, 0.5, channels=3),
        dots=uniform(-0.7, 0.7, 0.5),
        hatching=uniform(-0.7, 0.7, 0.5),
        period=uniform(5, 24),
        turn=uniform(0, math.pi),
        shadow=uniform(2, 10, 0.4),
        grain=uniform(0, 0.06, 0.3),
    )


class Painter:
    """Paints scenes on a device."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = device
        self.distances = distance_tables().to(device)
        middle = torch.arange(SIDE, device=device) + 0.5
        self.y, self.x = torch.meshgrid(middle, middle, indexing="ij")

    def paint(self, scenes: list[Scene], look: Look, colours: torch.Tensor | None = None) -> torch.Tensor:
        """[B, 3, SIDE, SIDE] within [-1, 1]; `colours`, [B, 2, 3] within 0 to 1, stand in for the scenes' own."""
        if colours is None:
            colours = torch.tensor([[COLOURS[s.colour], COLOURS[s.background]] for s in scenes]) / 255
        shape, ground = [colours[:, index, :, None, None].to(self.device) for index in (0, 1)]
        look = Look(*(part.to(self.device) for part in look))
        kinds = torch.tensor([SHAPES.index(scene.shape) for scene in scenes])
        places = torch.tensor([[s.x, s.y, s.radius, s.angle] for s in scenes], dtype=torch.float32, device=self.device)
        distance = self.distance(kinds, places, 0)
        fallen = self.distance(kinds, places, look.shadow.flatten())

        wave = 2 * math.pi / look.period
        dots = ((wave * self.x).sin() + (wave * self.y).sin()).mul(2).clamp(-1, 1).add(1).div(2)
        stripes = (wave * (self.x * look.turn.cos() + self.y * look.turn.sin())).sin().mul(2).clamp(-1, 1).add(1).div(2)
        image = mix(ground, lighter(ground, look.dots), dots)
        image = mix(image, look.ink, covered(fallen - look.outline) * (look.shadow > 0))
        image = mix(image, look.ink, covered(distance - look.outline))
        image = mix(image, mix(shape, lighter(shape, look.hatching), stripes), covered(distance))
        image = image + look.grain * torch.randn(image.shape, device=self.device)
        return image.clamp(0, 1).mul(2).sub(1)

    def distance(self, kinds: torch.Tensor, places: torch.Tensor, offset: torch.Tensor | float) -> torch.Tensor:
        """Of every pixel to the edge of the shape, below 0 inside: [B, 1, SIDE, SIDE]."""
        x, y, radius, angle = places.unbind(1)
        across, down = [axis - (start + offset)[:, None, None] for axis, start in [(self.x, x), (self.y, y)]]
        cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
        turned = torch.stack([across * cosine + down * sine, down * cosine - across * sine], dim=-1)
        grid = turned / (radius * REACH)[:, None, None, None]
        table = self.distances[kinds.to(self.device)]
        found = F.grid_sample(table, grid, padding_mode="border", align_corners=False)
        return found * radius[:, None, None, None]


def mix(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return first + (second - first) * share


def lighter(colour: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Towards white above 0, towards black below."""
    return torch.where(amount > 0, colour + (1 - colour) * amount, colour * (1 + amount))


def covered(distance: torch.Tensor) -> torch.Tensor:
    """The share of a pixel that lies inside, for smooth edges."""
    return (0.5 - distance).clamp(0, 1)


def distance_tables() -> torch.Tensor:
    """For each shape of radius 1 the distance to its edge, [shapes, 1, TABLE, TABLE]."""
    middle = (torch.arange(TABLE, dtype=torch.float64) + 0.5) / TABLE * 2 * REACH - REACH
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    circle = (x * x + y * y).sqrt()
    bite = ((x - 0.45) ** 2 + (y + 0.2) ** 2).sqrt()
    tables = {
        "circle": circle - 0.95,
        "ring": (circle - 0.72).abs() - 0.25,
        "moon": torch.maximum(circle - 1, 0.78 - bite),
    }
    polygons = {"square": square(), "triangle": turns([1.1] * 3), "star": turns([1.1, 0.47] * 5), "cross": cross()}
    for name, corners in (polygons | {"heart": heart()}).items():
        tables[name] = polygon_distance(x, y, corners)
    return torch.stack([tables[name] for name in SHAPES]).float()[:, None]


def turns(radii: list[float]) -> list[tuple[float, float]]:
    """Corners around the middle at these distances, the first at the top."""
    angles = [2 * math.pi * index / len(radii) for index in range(len(radii))]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in zip(radii, angles)]


def square() -> list[tuple[float, float]]:
    return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]


def cross() -> list[tuple[float, float]]:
    arm, end = 0.3, 0.98
    return [
        *[(-arm, -end), (arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm)],
        *[(arm, end), (-arm, end), (-arm, arm), (-end, arm), (-end, -arm), (-arm, -arm)],
    ]


def heart() -> list[tuple[float, float]]:
    curve = []
    for index in range(60):
        t = 2 * math.pi * index / 60
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        curve.append((math.sin(t) ** 3 * 16 / 16.5, -(height + 2.5) / 16.5))
    return curve


def polygon_distance(x: torch.Tensor, y: torch.Tensor, corners: list[tuple[float, float]]) -> torch.Tensor:
    distance, inside = torch.full_like(x, math.inf), torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
        along = along.clamp(0, 1)
        distance = torch.minimum(distance, torch.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
        if ay != by:
            inside ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return torch.where(inside, -distance, distance)


def main() -> None:
    from PIL import Image

    folder = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "style"
    folder.mkdir(parents=True, exist_ok=True)
    draws = random.Random(5)
    every = combinations(kept_for_test=False)
    # Each shape as often as any other, in colours that come from all combinations of the training.
    chosen = [draws.choice([c for c in every if c[0] == SHAPES[n % len(SHAPES)]]) for n in range(STYLE_PICTURES)]
    scenes = [draw_scene(combination, draws) for combination in chosen]
    images = Painter().paint(scenes, comic(len(scenes)))
    for number, (scene, image) in enumerate(zip(scenes, images)):
        name = f"{number + 1:02}-{scene.colour}-{scene.shape}"
        pixels = image.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(f"{scene.caption(number % 2)}\n")


if __name__ == "__main__":
    main()
