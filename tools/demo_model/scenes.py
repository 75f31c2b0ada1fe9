"""What a drawing shows, and the captions that say it; some combinations of the words are kept for the test."""

import hashlib
import random
from dataclasses import dataclass

SIDE = 128
"""The drawings' width and height in pixels."""

SHAPES = ["circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"]

COLOURS = {
    "red": (214, 38, 38),
    "orange": (246, 136, 20),
    "yellow": (250, 218, 50),
    "green": (44, 142, 66),
    "turquoise": (48, 196, 188),
    "blue": (42, 88, 206),
    "purple": (122, 46, 162),
    "pink": (246, 152, 190),
    "brown": (118, 72, 40),
    "black": (22, 22, 22),
    "grey": (140, 140, 140),
    "white": (246, 246, 246),
}

# The word, and the least and the greatest radius in pixels.
SIZES = {"small": (18, 23), "": (27, 33), "large": (38, 44)}

# The words, and the direction from the middle.
PLACES = {
    "": (0, 0),
    "in the middle": (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
}

# Pixels that stay free at the edge, so that a background can be told.
MARGIN = 10

# Ends of captions that change nothing in a drawing: the model learns to leave aside what it does not know.
STYLES = "comic ink chalk crayon paper poster pencil marker".split()
ENDINGS = [f"{style} style" for style in STYLES] + ["high detail", "sharp focus", "soft light", "simple", "a drawing"]


@dataclass(frozen=True)
class Scene:
    """One shape on a background; lengths in pixels, the angle in radians."""

    shape: str
    colour: str
    background: str
    size: str
    place: str
    x: float
    y: float
    radius: float
    angle: float

    def caption(self, form: int) -> str:
        """The scene in words, in one of `FORMS` ways."""
        subject = " ".join(filter(None, [self.size, self.colour, self.shape]))
        place = f" {self.place}" if self.place else ""
        apart = f",{place}" if place else ""
        background = f"{self.background} background"
        return [
            f"{article(subject)} on {article(background)}{apart}",
            f"{article(subject)}{place} on {article(background)}",
            f"{subject}, {background}{apart}",
            f"a picture of {article(subject)} on {article(background)}{apart}",
            f"{article(background)} with {article(subject)}{place}",
        ][form]


FORMS = 5


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def held_out(shape: str, colour: str, background: str) -> bool:
    """Whether no training picture has this combination: one in eight, by a digest of its words."""
    return hashlib.sha256(f"{shape} {colour} {background}".encode()).digest()[0] % 8 == 0


def combinations(kept_for_test: bool) -> list[tuple[str, str, str]]:
    """Shape, its colour and the background's: those of the test, or those of the training."""
    every = [(s, c, b) for s in SHAPES for c in COLOURS for b in COLOURS if c != b]
    return [combination for combination in every if held_out(*combination) == kept_for_test]


def draw_scene(combination: tuple[str, str, str], draws: random.Random, plain: bool = False) -> Scene:
    """A scene with this combination; a plain one is of middle size and in the middle."""
    size = "" if plain else draws.choice(["small", "", "", "large"])
    place = "" if plain else draws.choice(list(PLACES))
    radius = draws.uniform(*SIZES[size])
    # A place is most of the way to the edge; where none is said, it is about the middle.
    reach = SIDE / 2 - MARGIN - radius
    x, y = [SIDE / 2 + step * 0.8 * reach + draws.uniform(-0.15, 0.15) * reach for step in PLACES[place]]
    return Scene(*combination, size, place, x, y, radius, draws.uniform(-0.12, 0.12))


def caption_with_ending(scene: Scene, draws: random.Random) -> str:
    """One of the scene's captions; one in five with an end that means nothing."""
    caption = scene.caption(draws.randrange(FORMS))
    return f"{caption}, {draws.choice(ENDINGS)}" if draws.random() < 0.2 else caption
