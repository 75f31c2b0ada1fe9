"""A training by sd3pipe in a folder of its own, and what its store holds."""

import json
import pathlib
import subprocess

from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Everything that the reference has to do likewise. The schedule ends far beyond the steps that are compared, so that each moves weights.
SETTINGS = dict(
    epochs=9, batch=2, accumulate=2, seed=11, learning_rate=2e-4, warmup=10, weight_decay=0.01, largest_norm=1.0, shift=3.0,
    caption_dropout=0.2, t5_dropout=0.2, repeats=4, t5_tokens=16,
)

RANK, ALPHA = 4, 6.0

PIPELINE = """Pipeline(
    name: "parity",
    model: (
        checkpoint: "{root}/tests/model/sd3_tiny.safetensors",
        clip_l: "{root}/tests/model/clip_l.safetensors",
        clip_g: "{root}/tests/model/clip_g.safetensors",
        t5xxl: "{root}/tests/model/t5xxl.safetensors",
        tokenizers: (clip: "{root}/tests/model/clip_tokenizer.json", t5: "{root}/tests/model/t5_tokenizer.json"),
    ),
    device: Cpu,
    stages: {{
        "captions": Captions(data: [(path: "{root}/tests/photos", repeats: {repeats})], shuffle: (variants: 3, keep_tokens: 1)),
        "text": EncodeText(t5_tokens: {t5_tokens}, precision: F32),
        "latents": EncodeImages(resolution: 64, buckets: (step: 16), precision: F32),
        "train": Train(
            {method}epochs: {epochs}, batch: {batch}, accumulate: {accumulate}, seed: {seed}, precision: F32,
            learning_rate: {learning_rate}, schedule: Cosine(warmup: {warmup}), optimizer: AdamW(weight_decay: {weight_decay}),
            max_gradient_norm: {largest_norm}, shift: {shift}, caption_dropout: {caption_dropout}, encoder_dropout: (t5: {t5_dropout}),
        ),
    }},
)
"""


class Run:
    def __init__(self, program, folder, method):
        self.store, self.settings = folder / "store", SETTINGS
        pipeline = folder / "parity.ron"
        pipeline.write_text(PIPELINE.format(root=ROOT, method=METHODS[method], **SETTINGS))
        subprocess.run([program, "run", pipeline, "--store", self.store], check=True, stdout=subprocess.DEVNULL)
        shown = subprocess.run([program, "show", "last", "--json", "--store", self.store], check=True, capture_output=True)
        stages = json.loads(shown.stdout)["journal"]["stages"]
        self.results = {stage["name"]: stage["result"] for stage in stages}

    def object(self, digest):
        return self.store / "objects" / digest[:2] / digest[2:]

    def artifact(self, stage):
        return json.loads(self.object(self.results[stage]).read_bytes())

    def entries(self, stage, role):
        """Item to entry."""
        return {entry["item"]: entry for entry in self.artifact(stage)["entries"] if entry["role"] == role}

    def tensors(self, entry):
        return load_file(self.object(entry["digest"]))

    def losses(self):
        """The loss of each step of all epochs."""
        epochs = sorted(self.entries("train", "losses").values(), key=lambda entry: int(entry["item"]))
        return [step["loss"] for entry in epochs for step in json.loads(self.object(entry["digest"]).read_bytes())]


METHODS = {"full": "", "lora": f"method: LoRA(rank: {RANK}, alpha: {ALPHA}), "}
