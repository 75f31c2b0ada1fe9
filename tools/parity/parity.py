"""Trains the tests' model for 200 steps twice, by sd3pipe and by PyTorch with diffusers' network, and compares the losses step by step.

    python tools/parity/parity.py target/release/sd3pipe [--steps 200] [--out docs/parity.svg]

The two share the first weights, the cached texts and latents, the order of the data, and all that is drawn: the reference reads texts
and latents from the store of sd3pipe's run and draws the rest anew, by `tools/goldens/draws.py`. Everything else is the peer's: the
network, the loss, clipping, AdamW and the schedule."""

import argparse
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "goldens"))

import curve
import reference
from run import Run

BOUND = 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, help="an SVG with both curves")
    arguments = parser.parse_args()
    rows = {}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(arguments.program.resolve(), pathlib.Path(folder), method)
            ours = run.losses()[:arguments.steps]
            theirs = reference.METHODS[method](run, len(ours))
        rows[method] = (ours, theirs)
        off = [abs(one - other) / other for one, other in zip(ours, theirs)]
        worst = max(range(len(off)), key=off.__getitem__)
        print(f"{method}: {len(off)} steps, loss {ours[0]:.4f} to {ours[-1]:.4f}, "
              f"largest difference {off[worst]:.1e} at step {worst + 1}, bound {BOUND:.0e}")
    if arguments.out:
        arguments.out.write_text(curve.svg(rows))
    worst = max(abs(one - other) / other for ours, theirs in rows.values() for one, other in zip(ours, theirs))
    if any(len(ours) < arguments.steps for ours, _ in rows.values()) or not worst <= BOUND:
        raise SystemExit("the losses are not those of the reference")


METHODS = ["full", "lora"]

if __name__ == "__main__":
    main()
