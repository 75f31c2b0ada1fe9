"""The table of what several GPUs do for us and for PyTorch's DistributedDataParallel, made in one call on one machine.

    python benches/gpu/devices.py PROGRAM [--json FOLDER]

PROGRAM as for table.py. The step is that of the recipe: blocks run again in the backward pass, the norm of all gradients is clipped to
1, 8-bit AdamW. A speed-up is against one device in the same call; memory is the most that the allocator held of one device."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

WARM_UPS, STEPS = 4, 8


def train(rank, devices, pictures, path):
    """Steps over so many pictures on each device; the first writes its times."""
    import contextlib

    import torch
    import torch.distributed

    import peers

    torch.cuda.set_device(rank)
    torch.manual_seed(0)
    network = peers.Network(peers.Bench("cuda", False, None))
    network.network.enable_gradient_checkpointing()
    network.network.train()
    if devices > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        torch.distributed.init_process_group("nccl", rank=rank, world_size=devices)
        network.model = torch.nn.parallel.DistributedDataParallel(network.network, device_ids=[rank], gradient_as_bucket_view=True)
    optimizer = network.adamw_8bit()
    times = []
    for _ in range(WARM_UPS + STEPS):
        start = time.perf_counter()
        for picture in range(pictures):
            last = picture == pictures - 1
            with contextlib.nullcontext() if last or devices == 1 else network.model.no_sync():
                (network.forward().float().pow(2).mean() / pictures).backward()
        torch.nn.utils.clip_grad_norm_(network.network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=devices == 1)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    if rank == 0:
        times = sorted(times[WARM_UPS:])
        pathlib.Path(path).write_text(json.dumps(dict(median=times[len(times) // 2], held=torch.cuda.max_memory_reserved())))
    if devices > 1:
        torch.distributed.destroy_process_group()


def peer(devices, pictures):
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "times"
        torch.multiprocessing.spawn(train, (devices, pictures, str(path)), nprocs=devices)
        return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path, metavar="FOLDER")
    arguments = parser.parse_args()
    import torch

    count = torch.cuda.device_count()
    cases = [(4, 1), (2, 1), (1, 1)] + ([(4, count), (count, count)] if count > 1 else [])
    theirs = {}
    for pictures, devices in cases:
        try:
            theirs[pictures, devices] = peer(devices, pictures // devices)
        except Exception as error:
            print(f"PyTorch, {pictures} on {devices}: {error}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "lines"
        subprocess.run([arguments.program.resolve(), "--json", path, "devices"], stdout=sys.stderr, check=False)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ours = {line["row"]: line for line in lines if "median" in line}
    print(f"{count} × {torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print("| pictures a step | GPUs | here | against one | memory a GPU | DistributedDataParallel | against one | memory a GPU |")
    print("|---|---|---|---|---|---|---|---|")

    def side(rows, key, alone):
        if key not in rows:
            return ["", "", ""]
        row = rows[key]
        faster = rows[alone]["median"] * key[0] / alone[0] / row["median"] if alone in rows else 0
        return [f"{row['median'] * 1e3:.0f} ms", f"{faster:.2f} ×", f"{row['held'] / 2**30:.1f} GiB"]

    own = {case: ours[f"{case[0]} pictures a step on {case[1]}"] for case in cases if f"{case[0]} pictures a step on {case[1]}" in ours}
    for pictures, devices in cases:
        # As many pictures a device, or a step of as many.
        alone = (pictures if pictures == 4 else pictures // devices, 1)
        columns = side(own, (pictures, devices), alone) + side(theirs, (pictures, devices), alone)
        print("| " + " | ".join([str(pictures), str(devices), *columns]) + " |")
    for row in ours:
        if "alone" in row or "by itself" in row:
            print(f"\n{row}: {ours[row]['median'] * 1e3:.1f} ms")
    if arguments.json:
        arguments.json.mkdir(parents=True, exist_ok=True)
        kept = {"ours": ours, "theirs": [dict(pictures=key[0], devices=key[1], **row) for key, row in theirs.items()]}
        (arguments.json / "devices.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
