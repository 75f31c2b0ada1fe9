"""Weights and inputs that are a function of a name and a shape, and the golden files' format."""

import json
import pathlib
from importlib.metadata import version

import numpy
import torch
from safetensors.torch import save_file

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pillow", "blake3")
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "goldens"


def uniform(name, shape):
    """Values in [-1, 1): SplitMix64 from the FNV-1a hash of the name, the upper 24 bits of each."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    count = int(numpy.prod(shape, dtype=numpy.int64))
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    values = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**23) - numpy.float32(1)
    return torch.from_numpy(values.reshape(shape))


def weight(name, shape):
    """Values of a size that keeps activations near one: norms' scales are around 1, biases around 0."""
    values = uniform(name, shape)
    if name == "pos_embed":
        return values
    if len(shape) > 1:
        inputs = int(numpy.prod(shape[1:]))
        return values * torch.tensor(numpy.sqrt(3 / inputs), dtype=torch.float32)
    values = values * torch.tensor(0.1, dtype=torch.float32)
    return 1 + values if name.endswith(".weight") else values


def weights(shapes):
    return {name: weight(name, shape) for name, shape in shapes.items()}


PROBES = 8


def sketch(name, values):
    """What a golden keeps of a large tensor: its products with PROBES fixed tensors, and its length.

    A probe has values in [-1, 1) of variance 1/3, so the mean square of the products of a difference with the probes is about a
    third of the square of the difference's length: a sketch measures the error over all values."""
    values = values.detach().double()
    probes = [uniform(f"probe {index} {name}", list(values.shape)).double() for index in range(PROBES)]
    return torch.stack([(values * probe).sum() for probe in probes] + [values.norm()])


def load(model, state):
    """Loads a reference model; every one of its tensors must come from the state."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert not missing, missing
    return model.eval()


def save(name, shapes, config, tensors, libraries=LIBRARIES):
    metadata = {
        "shapes": json.dumps(shapes),
        "config": json.dumps(config),
        "versions": json.dumps({library: version(library) for library in libraries}),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata)
    print(f"{name}: {len(tensors)} tensors")
