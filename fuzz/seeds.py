#!/usr/bin/env python3
"""Writes the inputs that fuzzing starts from: fuzz/corpus/TARGET/*, made from tests/ and pipelines/. Needs Pillow."""

import io
import json
import struct
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parent
MODEL = ROOT / "tests" / "model"

PIPELINE = """Pipeline(
    name: "a", device: Cpu,
    model: (checkpoint: "model.safetensors", vae: "model.safetensors", clip_l: "model.safetensors", t5xxl: "model.safetensors",
        tokenizers: (clip: "model.safetensors", t5: "model.safetensors")),
    stages: {
        "captions": Captions(data: [(path: "photos", name: "x", repeats: 2, class: "c")], missing: ClassName, prefix: "p",
            suffix: "s", separator: ";", shuffle: (variants: 4, keep_tokens: 1), extensions: ["txt"]),
        "text": EncodeText(captions: "captions", t5_tokens: 16, precision: F32),
        "latents": EncodeImages(resolution: (64, 96), buckets: (step: 16, min: 32, max: 128, upscale: true), batch: 2),
        "train": Train(epochs: 2, learning_rate: 1e-3, schedule: Constant(warmup: 3), optimizer: AdamW(beta1: 0.8),
            density: LogitNormal(mean: 0.5), encoder_dropout: (t5: 0.1), save_every: 1),
        "export": Export(epochs: Only([1]), precision: Bf16),
        "sample": Sample(prompts: ["a \\"cat\\"", r#"b"#], size: (64, 64), seeds: [1, 2], cfg: 4.5, negative: "n"),
    },
)"""
HEIR = '(extends: "base.ron", name: "heir", /* /* */ */ stages: {"train": Train(epochs: 3)}) // end'


def write(target, seeds):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number:02}").write_bytes(seed)


def parts(*texts):
    return b"\xff".join(text if isinstance(text, bytes) else text.encode() for text in texts)


def header(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length]


def pipelines():
    yield parts(PIPELINE)
    yield parts(PIPELINE, "", "train.epochs=7", 'name="x"', "train.encoder_dropout.t5=0.5", "sample.prompts=[]")
    yield parts(HEIR, PIPELINE)
    yield parts(PIPELINE.replace("Train(", "Trian(").replace("epochs: 2", 'epochs: "two"'))
    for path in sorted((ROOT / "pipelines").glob("*.ron")):
        yield path.read_bytes()


def model_files():
    tiny = b'{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}'
    yield b"\0" + struct.pack("<Q", len(tiny)) + tiny + bytes(10)
    names = ["clip_l", "clip_g", "t5xxl", "sd3_tiny"]
    for name in names:
        yield b"\1" + header(MODEL / f"{name}.safetensors")
    t5 = json.loads(header(MODEL / "t5xxl.safetensors"))
    halves = [dict(), dict()]
    for index, (name, tensor) in enumerate(t5.items()):
        if name != "__metadata__":
            half = halves[index % 2]
            start = max([other["data_offsets"][1] for other in half.values()], default=0)
            length = tensor["data_offsets"][1] - tensor["data_offsets"][0]
            half[name] = tensor | {"data_offsets": [start, start + length]}
    files = {name: f"{'ab'[index]}.safetensors" for index, half in enumerate(halves) for name in half}
    yield b"\2" + parts(json.dumps({"metadata": {}, "weight_map": files}), *map(json.dumps, halves))
    yield b"\2" + parts('{"weight_map": {"a": "../a.safetensors"}}')


def captions():
    yield b"\0\0" + parts("\ufeffa dog\r\nmore", ",", "photo of", "", "txt", "set")
    yield b"\5\1" + parts("sks, lighthouse, dusk, sea", ",", "", "at night", "txt", "")
    yield b"\3\0" + parts("a|b||c &amp;amp; ｆull “x” é <|endoftext|>", "|")
    yield b"\0\0" + b"caf\xc3"


def images():
    base = Image.effect_noise((24, 20), 80)
    for mode in ["L", "RGB", "RGBA", "P", "1", "I;16", "LA"]:
        yield encoded(base.convert("RGB").convert(mode) if mode != "I;16" else base.convert("I;16"), "PNG")
    for options in [{}, {"progressive": True}, {"subsampling": 2, "restart_marker_blocks": 1}]:
        yield encoded(base.convert("RGB"), "JPEG", **options)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield encoded(base, "JPEG", exif=exif)
    yield encoded(base.convert("CMYK"), "JPEG")
    for options in [{}, {"lossless": True}, {"exif": exif.tobytes()}]:
        yield encoded(base.convert("RGBA"), "WEBP", **options)
    yield encoded(base.convert("RGB"), "WEBP", save_all=True, append_images=[base.convert("RGB").rotate(90)])
    for mode in ["RGB", "P", "1", "L"]:
        yield encoded(base.convert(mode), "BMP")


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return b"\3\3\4\0" + out.getvalue()


def records():
    first = {"kind": "train epoch", "revision": 1, "reads": {"a": [1, -2, 3.5, None, True, "x"], "b": {"c": {}}}}
    yield b"\0" + parts(json.dumps(first), json.dumps(first | {"reads": {"a": []}}))
    text = lambda value: struct.pack("<I", len(value)) + value
    yield b"\1" + (text(b"latents") + text(b"a/b.png") + bytes(32) + bytes(8) + b"\1" + bytes(32)) * 2
    yield b"\2" + bytes(range(104))
    entry = {"role": "file", "item": "1/vae/config.json", "digest": "ab" * 32, "length": 7, "size": [1, 2]}
    yield b"\3" + json.dumps({"entries": [entry, entry | {"content": "cd" * 32}]}).encode()
    item = {"id": "a.png", "image": "ab" * 32, "width": 20, "height": 30, "repeats": 1, "texts": ["a", "b"]}
    yield b"\4" + json.dumps([item, item | {"id": "b"}]).encode()
    tensor = b'{"mean":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[8,9]}}'
    yield b"\5" + struct.pack("<Q", len(tensor)) + tensor + bytes(9)
    stage = {"name": "train", "kind": "Train", "key": "ab" * 32, "result": None, "executed": ["a"], "actions": 3, "seconds": 1.5}
    yield b"\6" + json.dumps({"pipeline": "()", "stages": [stage], "keys": {"a": "b"}, "error": "e"}).encode()
    yield b"\7" + b"ab" * 32


def tokenizers():
    clip = json.loads((MODEL / "clip_tokenizer.json").read_text())
    ends = {token["content"] for token in clip["added_tokens"]}
    vocabulary = {token: id for token, id in clip["model"]["vocab"].items() if len(token) == 1 or token in ends}
    clip["model"] |= {"vocab": vocabulary | {"ab": 700}, "merges": ["a b"]}
    yield b"\0" + json.dumps(clip).encode()
    kinds = [
        {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": vocabulary},
        {"type": "WordLevel", "unk_token": "a", "vocab": vocabulary},
        {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": [["<unk>", 0.0], ["a", -1.5], *[[end, 0.0] for end in sorted(ends)]]},
    ]
    for model in kinds:
        yield b"\0" + json.dumps(clip | {"model": model}).encode()
    yield b"\1" + parts(json.dumps(vocabulary | {"ab": 700}), "#version: 0.2\na b\n")
    t5 = json.loads((MODEL / "t5_tokenizer.json").read_text())
    t5["model"]["vocab"] = t5["model"]["vocab"][:40]
    yield b"\2" + json.dumps(t5).encode()
    field = lambda number, content: bytes([number << 3 | 2, len(content)]) + content
    piece = lambda text, score, kind: field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([24, kind]))
    pieces = [("<pad>", 0, 3), ("</s>", 0, 3), ("<unk>", 0, 2), ("\u2581", -3, 1), ("a", -2, 1), ("\u2581cat", -1.5, 1)]
    model = b"".join(piece(*each) for each in pieces) + field(2, b"\x18\1")
    yield b"\2" + model + field(3, field(1, b"identity"))
    yield b"\2" + model + field(3, field(2, struct.pack("<III", 8, 256 << 2 | 1 << 9, 0) + b"x\0yz\0"))


for target, seeds in {
    "pipeline": pipelines(),
    "safetensors": model_files(),
    "captions": captions(),
    "image": images(),
    "record": records(),
    "tokenizer": tokenizers(),
}.items():
    write(target, seeds)
