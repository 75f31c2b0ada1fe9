"""Pushes the demo into each failure that a report tells of, over several seeds, and says how its checkpoints were judged.

    python tools/pushed.py target/release/sd3pipe --folder /tmp/pushed [--seeds 5]

Each run must be flagged for what was done to it, in half of its checkpoints at least, and none may be recommended that is not surely
free of it; of the run as the demo has it no checkpoint may be flagged and one must be recommended. It takes Pillow. What was run is kept in the folder's store: a second call only judges. A run takes
between five seconds and two minutes.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

DEMO = Path(__file__).resolve().parents[1] / "pipelines" / "demo.ron"
# Four very different pictures; those who copy are found out by being asked for the same.
FOUR = ["03-black-triangle", "14-grey-cross", "27-pink-triangle", "40-black-moon"]

PIPELINE = """(extends: "{demo}", name: "{name}", stages: {{
    {data}
    "train": Train(seed: {seed}, {train}),
    "export": Export(epochs: Only([{epochs}])),
    // Ten samples of each checkpoint: five leave much not sure.
    "sample": Sample({prompts}seeds: [1, 2]),
}})
"""

# What is done, the epochs to draw, and what must be found in each of them: one of these.
PUSHES = {
    "good": ("epochs: 60", "5, 15, 30, 60", []),
    "rate x 30": ("epochs: 60, learning_rate: 1.5e-2", "5, 15, 30, 60", ["OverFitted", "Blurred"]),
    "four pictures x 20": ("epochs: 10", "5, 10", ["Copying"]),
    "rate / 100, 10 epochs": ("epochs: 10, learning_rate: 5e-6", "5, 10", ["UnderFitted"]),
    # Taught by regularisation pictures, which are no part of the style.
    "faded regularisation": ("epochs: 1", "1", ["WashedOut"]),
    "rate x 4, noise alone": (
        "epochs: 12, learning_rate: 2e-3, schedule: Constant(), min_timestep: 900",
        "12",
        ["Blurred"],
    ),
}


def write(folder: Path, push: str, seed: int) -> Path:
    train, epochs, _ = PUSHES[push]
    name = "".join(c if c.isalnum() else "-" for c in push) + f"-{seed}"
    data, prompts = "", ""
    if push.startswith("four"):
        captions = [(folder / "four" / f"{picture}.txt").read_text().strip() for picture in FOUR]
        data = f'"captions": Captions(data: [(path: "{folder / "four"}", repeats: 20)]),'
        prompts = f"prompts: {json.dumps(captions)}, "
    if push.startswith("faded"):
        style = f'(path: "{DEMO.parent / "demo" / "style"}")'
        faded = f'(path: "{folder / "faded"}", name: "faded", repeats: 20, regularisation: true)'
        data = f'"captions": Captions(data: [{style}, {faded}]),'
    path = folder / f"{name}.ron"
    path.write_text(
        PIPELINE.format(demo=DEMO, name=name, data=data, seed=seed, train=train, epochs=epochs, prompts=prompts)
    )
    return path


def judge(program: str, folder: Path, pipeline: Path) -> dict:
    store = ["--store", str(folder / "store")]
    done = subprocess.run([program, "run", str(pipeline), *store], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{pipeline}: {done.stderr}")
    said = subprocess.run([program, "report", str(pipeline), *store, "--json"], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)["verdicts"]["sample"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program")
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--pushes", nargs="*", default=list(PUSHES))
    given = arguments.parse_args()
    folder = given.folder.resolve()
    (folder / "four").mkdir(parents=True, exist_ok=True)
    for picture in FOUR:
        for ending in ["png", "txt"]:
            shutil.copy(DEMO.parent / "demo" / "style" / f"{picture}.{ending}", folder / "four")
    (folder / "faded").mkdir(exist_ok=True)
    for picture in (DEMO.parent / "demo" / "style").glob("*.png"):
        image = Image.open(picture).convert("RGB")
        Image.blend(image, Image.new("RGB", image.size, "white"), 0.8).save(folder / "faded" / picture.name)
        shutil.copy(picture.with_suffix(".txt"), folder / "faded")
    failed = 0
    for push in given.pushes:
        right, recommended = 0, Counter()
        for seed in range(1, given.seeds + 1):
            verdicts = judge(given.program, folder, write(folder, push, seed))
            wanted, lines = PUSHES[push][2], []
            found, clear = {}, {}
            for checkpoint in verdicts["checkpoints"]:
                of = checkpoint["verdicts"]
                found[checkpoint["name"]] = {verdict["concern"] for verdict in of if verdict["finding"] == "Flagged"}
                clear[checkpoint["name"]] = {verdict["concern"] for verdict in of if verdict["finding"] == "Clear"}
                deciding = " ".join(f"{v['concern']} {v['numbers'][0]['value']:.2f} {v['finding']};" for v in of if v["numbers"])
                lines.append(f"    {checkpoint['name']}: {deciding}")
            # A run that was pushed may be flagged for more.
            flagged = [flags for flags in found.values() if flags & set(wanted)]
            sure = verdicts["recommended"] is None or clear[verdicts["recommended"]] >= set(wanted)
            unharmed = not any(found.values()) and verdicts["recommended"] is not None
            good = 2 * len(flagged) >= len(found) and sure if wanted else unharmed
            right += good
            recommended[verdicts["recommended"]] += 1
            print(f"{push}, seed {seed}: {'right' if good else 'WRONG'}, recommended {verdicts['recommended']}")
            print("\n".join(lines), flush=True)
        failed += right < given.seeds
        print(f"{push}: judged rightly {right} of {given.seeds}; recommended {dict(recommended)}\n", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
