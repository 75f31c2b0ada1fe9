"""Tensors drawn by name, and the file that they are saved to."""

import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SEED = 3

Tensors = dict[str, np.ndarray]


def normal(name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> np.ndarray:
    """Gaussian values that depend on the seed, the tensor's name and its shape alone."""
    generator = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(name.encode())]))
    return (mean + deviation * generator.standard_normal(shape)).astype(np.float16)


def linear(name: str, inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> Tensors:
    """A layer whose outputs have `gain` times the magnitude of its inputs."""
    tensors = {f"{name}.weight": normal(f"{name}.weight", (outputs, inputs), gain / inputs**0.5)}
    if bias:
        tensors[f"{name}.bias"] = normal(f"{name}.bias", (outputs,), 0.02)
    return tensors


def convolution(name: str, inputs: int, outputs: int, side: int, gain: float = 1.0) -> Tensors:
    """A convolution whose outputs have `gain` times the magnitude of its inputs."""
    deviation = gain / (inputs * side * side) ** 0.5
    return {
        f"{name}.weight": normal(f"{name}.weight", (outputs, inputs, side, side), deviation),
        f"{name}.bias": normal(f"{name}.bias", (outputs,), 0.02),
    }


def norm(name: str, width: int, bias: bool = True) -> Tensors:
    """A normalisation's scale, near one, and its shift, near zero."""
    tensors = {f"{name}.weight": normal(f"{name}.weight", (width,), 0.05, mean=1.0)}
    if bias:
        tensors[f"{name}.bias"] = normal(f"{name}.bias", (width,), 0.02)
    return tensors


def save(path: Path, tensors: Tensors) -> None:
    """Writes the file; safetensors orders the tensors by name."""
    # One entry of metadata and no more: the order of several is not fixed.
    save_file(tensors, path, metadata={"format": "pt"})
