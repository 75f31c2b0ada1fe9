"""Whether a GPU trains as a CPU does, several as one does, and a killed run as one that was left alone: the demo, in float32.

    python benches/gpu/curve.py PROGRAM [--epochs 17]

PROGRAM is sd3pipe with the feature `cuda`. Each line: what is compared over how many steps, the largest relative difference of the losses,
and its bound; the last also whether the weights have the same bytes. Exit code 1 if a bound is not kept."""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Place:
    """The demo in a folder and a store of its own."""

    def __init__(self, program, folder, name, device, epochs):
        self.folder, self.name = folder / name, name
        self.folder.mkdir()
        # One for all: compiling kernels, and choosing some, takes longer than the steps.
        kernels = f'[compilation]\ncache = true\n[environment]\nname = "curve"\npath = {{ directory = "{folder}/kernels" }}\n'
        (self.folder / "cubecl.toml").write_text(kernels, encoding="utf-8")
        shutil.copytree(ROOT / "pipelines" / "demo", self.folder / "demo")
        pipeline = (ROOT / "pipelines" / "demo.ron").read_text(encoding="utf-8").replace("device: Cpu,", f"{device},")
        (self.folder / "demo.ron").write_text(pipeline, encoding="utf-8")
        self.command = [program, "run", "demo.ron", "--until", "train", "--set", f"train.epochs={epochs}", "--set", "export.epochs=Last"]

    def run(self):
        start = time.monotonic()
        done = subprocess.run(self.command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        print(f"{self.name}: {time.monotonic() - start:.1f} s", file=sys.stderr)

    def run_and_kill(self):
        """Killed when some epochs are behind it."""
        child = subprocess.Popen([*self.command, "--set", "train.save_every=6"], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and not list(self.folder.rglob("work/**/state.safetensors")):
            time.sleep(0.05)
        child.kill()
        if child.wait() == 0:
            raise SystemExit(f"{self.name}: it ended before it was killed")

    def objects(self):
        return [path for path in (self.folder / ".sd3pipe" / "objects").rglob("*") if path.is_file()]

    def losses(self):
        steps = {}
        for path in self.objects():
            if path.stat().st_size < 1 << 20:
                try:
                    found = json.loads(path.read_bytes())
                except ValueError:
                    continue
                if isinstance(found, list) and found and isinstance(found[0], dict) and "gradient_norm" in found[0]:
                    steps |= {step["step"]: step["loss"] for step in found}
        return [steps[step] for step in sorted(steps)]

    def names(self):
        """Of all that it has made: an object is named by its bytes."""
        return {path.name for path in self.objects()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--epochs", type=int, default=17)
    arguments = parser.parse_args()
    program, failed = arguments.program.resolve(), False
    query = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    gpus = len(query.strip().splitlines())
    with tempfile.TemporaryDirectory() as folder:
        place = lambda name, device: Place(program, pathlib.Path(folder), name, device, arguments.epochs)
        cpu, gpu, killed = place("cpu", "device: Cpu"), place("gpu", "device: Cuda(0)"), place("killed", "device: Cuda(0)")
        several = place("several", "devices: All") if gpus > 1 else None
        beside = threading.Thread(target=cpu.run)
        beside.start()
        for there in [gpu, several]:
            if there:
                there.run()
        expected = gpu.losses()
        beside.join()

        def compare(what, found, expected, bound, more=""):
            nonlocal failed
            off = max(abs(one / other - 1) for one, other in zip(found, expected))
            kept = len(found) == len(expected) and len(found) > 0 and off <= bound
            failed |= not kept
            print(f"{what}: {len(found)} steps, off by {off:.1e} (at most {bound:.0e}){more}{'' if kept else ': NOT KEPT'}", flush=True)

        compare("a GPU and the CPU", expected, cpu.losses(), 1e-2)
        if several:
            compare(f"{gpus} GPUs and one", several.losses(), expected, 1e-3)
        killed.run_and_kill()
        killed.run()
        same = "the same bytes" if gpu.names() == killed.names() else f"{len(gpu.names() ^ killed.names())} objects differ"
        compare("killed and gone on, and left alone", killed.losses(), expected, 1e-6, f", {same}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
