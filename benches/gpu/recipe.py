"""The known-good recipe at full size, by `sd3pipe run` with the shipped pipeline and nothing changed but where the model lies.

    python benches/gpu/recipe.py PROGRAM FOLDER [--epochs 1]

FOLDER is what `model.py FOLDER --pictures 102` wrote. The run is killed while it trains and goes on; then it is run again with nothing to do.
What it prints: what `plan` said of memory beside what the driver showed, seconds of each run and until the first step, whether all losses are
finite, and what came out."""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

from memory import Peak

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--epochs", default="1")
    arguments = parser.parse_args()
    program, folder = arguments.program.resolve(), arguments.folder
    (folder / "t5_tokenizer.json").write_bytes((ROOT / "tests/model/t5_tokenizer.json").read_bytes())
    pipeline = (ROOT / "pipelines/style_dreambooth.ron").read_text(encoding="utf-8")
    pipeline = pipeline.replace('t5: "models/spiece.model"', 't5: "t5_tokenizer.json"')
    (folder / "style_dreambooth.ron").write_text(pipeline, encoding="utf-8")
    options = ["style_dreambooth.ron", "--set", f"train.epochs={arguments.epochs}"]

    def call(*words):
        start = time.monotonic()
        done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done, time.monotonic() - start

    _, seconds = call("run", *options, "--until", "latents")
    print(f"texts and latents: {seconds:.0f} s", flush=True)
    said, _ = call("plan", *options, "--bytes")
    print(said.stdout, flush=True)

    def train(until=None):
        """Runs; gives the seconds until the first step, and stops there by force if asked to."""
        peak, start, first, loaded = Peak(), time.monotonic(), None, None
        peak.start()
        events = folder / "out/style_dreambooth/tensorboard"
        written = lambda: sum(path.stat().st_size for path in events.rglob("*") if path.is_file())
        before = written()
        command = [program, "run", *options, "--until", "train", *(["--set", "train.save_every=40"] if until else [])]
        said = folder / "said"
        with said.open("w") as output:
            child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while child.poll() is None:
            if first is None and written() > before + 200:
                first = time.monotonic() - start
            if loaded is None and "going on from step" in said.read_text(encoding="utf-8"):
                loaded = time.monotonic() - start
            if until and list(folder.rglob("work/**/state.safetensors")):
                child.kill()
            time.sleep(0.1)
        peak.over = True
        text = said.read_text(encoding="utf-8")
        sizes = [line.strip() for line in text.replace("\r", "\n").splitlines() if "first" in line]
        print(*sizes, *([f"weights and states were loaded after {loaded:.1f} s"] if loaded else []), sep="\n", flush=True)
        return first, time.monotonic() - start, peak.most, child.returncode, text[-2500:]

    first, seconds, most, code, tail = train(until=True)
    print(f"killed after {seconds:.0f} s, the first step after {first or 0:.0f} s, {most} MiB on the first GPU\n{tail if code != -9 else ''}", flush=True)
    first, seconds, most, code, tail = train()
    print(f"gone on: the first step after {first or 0:.0f} s, {seconds:.0f} s in all, {most} MiB on the first GPU, code {code}\n{tail}", flush=True)
    done, seconds = call("run", *options)
    print(f"export and samples: {seconds:.0f} s\n{done.stdout[-1500:]}", flush=True)
    _, seconds = call("run", *options)
    print(f"again: {seconds:.1f} s", flush=True)
    losses = {}
    for path in (folder / ".sd3pipe/objects").rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20:
            try:
                found = json.loads(path.read_bytes())
            except ValueError:
                continue
            if isinstance(found, list) and found and isinstance(found[0], dict) and "gradient_norm" in found[0]:
                losses |= {step["step"]: step["loss"] for step in found}
    finite = all(math.isfinite(loss) for loss in losses.values())
    print(f"{len(losses)} steps, losses {'finite' if finite else 'NOT FINITE'}")
    sys.exit(0 if finite and losses else 1)


if __name__ == "__main__":
    main()
