"""The memory that `plan` says a training needs on the GPU, against what the run then takes there, and how long the run takes.

    python benches/gpu/memory.py PROGRAM FOLDER [CASE...]

FOLDER is what model.py wrote. The driver is asked every fifth of a second how much of the card is in use; what was in use before is
taken off, and the context of CUDA is in it."""

import pathlib
import re
import subprocess
import sys
import threading
import time

PIPELINE = """Pipeline(
    name: "memory",
    model: (
        checkpoint: "models/sd3_medium.safetensors", clip_l: "models/clip_l.safetensors", clip_g: "models/clip_g.safetensors",
        t5xxl: "models/t5xxl_fp16.safetensors", tokenizers: (t5: "t5_tokenizer.json"),
    ),
    device: Cuda(0),
    stages: {
        "captions": Captions(data: [(path: "photos")]),
        "text": EncodeText(t5_tokens: 256),
        "latents": EncodeImages(resolution: 1024, precision: Bf16),
        "train": Train(epochs: 1, learning_rate: 1e-6, SETTINGS),
    },
)
"""

SMALL = "optimizer: AdamW8bit(), weights: Bf16Stochastic"
CASES = {
    "recipe": f"{SMALL}, checkpointing: Blocks",
    "fused": f"{SMALL}, checkpointing: Blocks, fused_step: true, max_gradient_norm: 0.0",
    "8-bit": SMALL,
    "adamw": "optimizer: AdamW()",
    "lora": "method: LoRA(rank: 16), checkpointing: Blocks",
    "lora-plain": "method: LoRA(rank: 16)",
}


def used():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(query, check=True, capture_output=True, text=True).stdout)


class Peak(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.before, self.most, self.over = used(), 0, False

    def run(self):
        while not self.over:
            self.most = max(self.most, used() - self.before)
            time.sleep(0.2)


def run(program, folder, arguments):
    peak = Peak()
    peak.start()
    start = time.monotonic()
    done = subprocess.run([program, "run", "memory.ron", *arguments], cwd=folder, capture_output=True, text=True)
    peak.over = True
    return done, peak.most, time.monotonic() - start


def main():
    program, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    tokenizer = pathlib.Path(__file__).resolve().parents[2] / "tests/model/t5_tokenizer.json"
    (folder / "t5_tokenizer.json").write_bytes(tokenizer.read_bytes())
    for case in sys.argv[3:] or CASES:
        (folder / "memory.ron").write_text(PIPELINE.replace("SETTINGS", CASES[case]))
        done, most, seconds = run(program, folder, ["--until", "latents"])
        if "nothing to do" not in done.stdout:
            print(f"texts and latents: {seconds:.0f} s, {most} MiB\n{done.stdout[-1500:]}{done.stderr[-1500:]}", flush=True)
        planned = subprocess.run([program, "plan", "memory.ron", "--json"], cwd=folder, capture_output=True, text=True)
        said = re.search(r'"memory": (\d+)', planned.stdout)
        said = int(said[1]) / 2**20 if said else float("nan")
        done, most, seconds = run(program, folder, ["--until", "train"])
        print(f"{case}: said {said:.0f} MiB, took {most} MiB, {said / max(most, 1):.3f} times; {seconds:.0f} s in all", flush=True)
        print(done.stdout[-600:] if done.returncode == 0 else done.stdout[-600:] + done.stderr[-1500:], flush=True)


if __name__ == "__main__":
    main()
