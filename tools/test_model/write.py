"""Writes the tiny SD3 that the tests run on: random weights in the true layout, and two small tokenizers.

    pip install -r tools/test_model/requirements.txt
    python tools/test_model/write.py [folder]

The same bytes each time. The weights are drawn from a generator of their own for each tensor, seeded by the tensor's
name, so that a change of one shape leaves the others as they are. Nothing was trained: the model has the parts, the key
names and about the magnitudes of a real one, and makes patterns, not pictures.
"""

import sys
from pathlib import Path

# The captions' words are those of the demo's model.
sys.path.append(str(Path(__file__).resolve().parents[1] / "demo_model"))

import text_encoders
import tokenizer_files
from transformer import transformer
from vae import vae
from weights import save

CLIP_VOCABULARY = 768
T5_VOCABULARY = 600
CLIP_WIDTH = 64
T5_WIDTH = 128


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "tests" / "model"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)

    tokenizer_files.clip(CLIP_VOCABULARY).save(str(folder / "clip_tokenizer.json"))
    tokenizer_files.t5(T5_VOCABULARY).save(str(folder / "t5_tokenizer.json"))

    checkpoint = transformer(
        width=64, depth=2, position_grid=32, context_width=T5_WIDTH, pooled_width=2 * CLIP_WIDTH
    )
    checkpoint |= vae(channels=16, multipliers=(1, 2, 2, 2), latent_channels=16)
    save(folder / "sd3_tiny.safetensors", checkpoint)
    # CLIP-L has no projection of its pooled vector, CLIP-G has.
    clip_l = text_encoders.clip("clip_l", CLIP_WIDTH, layers=2, vocabulary=CLIP_VOCABULARY, projection=False)
    clip_g = text_encoders.clip("clip_g", CLIP_WIDTH, layers=3, vocabulary=CLIP_VOCABULARY, projection=True)
    t5 = text_encoders.t5(T5_WIDTH, layers=2, heads=2, head_width=64, hidden=128, vocabulary=T5_VOCABULARY)
    save(folder / "clip_l.safetensors", clip_l)
    save(folder / "clip_g.safetensors", clip_g)
    save(folder / "t5xxl.safetensors", t5)


if __name__ == "__main__":
    main()
