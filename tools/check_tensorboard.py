"""Reads the curves of a training with TensorBoard's own reader, and compares them with the lines of JSON beside them.

    pip install tensorboard
    python tools/check_tensorboard.py pipelines/out/demo/tensorboard
"""

import collections
import json
import math
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVENTS = "events.out.tfevents.sd3pipe"


def curves(folder):
    """Every curve as TensorBoard reads it: (step, value) by name."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    reader.Reload()
    found = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    for tag in reader.Tags()["tensors"]:
        events = reader.Tensors(tag)
        found[tag] = [(event.step, event.tensor_proto.float_val[0]) for event in events]
    return found


def main():
    runs = sorted(path.parent for path in pathlib.Path(sys.argv[1]).rglob(EVENTS))
    assert runs, f"there is no {EVENTS} in {sys.argv[1]}"
    for run in runs:
        expected = collections.defaultdict(list)
        for line in (run / "metrics.jsonl").read_text().splitlines():
            point = json.loads(line)
            value = math.nan if point["value"] is None else point["value"]
            expected[point["tag"]].append((point["step"], struct.unpack("f", struct.pack("f", value))[0]))
        found = curves(run)
        assert found.keys() == expected.keys(), (sorted(found), sorted(expected))
        for tag, points in expected.items():
            assert repr(found[tag]) == repr(points), tag
            print(f"{run.name}  {tag}  {len(points)} points")


if __name__ == "__main__":
    main()
