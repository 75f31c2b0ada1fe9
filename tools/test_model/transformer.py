"""The MMDiT in the layout of SD3-medium's single file (no q-k norm, no second attention)."""

import math

import numpy as np
from weights import Tensors, convolution, linear, normal

LATENT_CHANNELS = 16
PATCH = 2


def transformer(width: int, depth: int, position_grid: int, context_width: int, pooled_width: int) -> Tensors:
    """All tensors under `model.diffusion_model.`; heads have 64 channels each."""
    prefix = "model.diffusion_model"
    tensors = {f"{prefix}.pos_embed": position_table(position_grid, width)}
    tensors |= convolution(f"{prefix}.x_embedder.proj", LATENT_CHANNELS, width, PATCH)
    for embedder, inputs in [("t_embedder", 256), ("y_embedder", pooled_width)]:
        tensors |= linear(f"{prefix}.{embedder}.mlp.0", inputs, width)
        tensors |= linear(f"{prefix}.{embedder}.mlp.2", width, width)
    tensors |= linear(f"{prefix}.context_embedder", context_width, width)
    for index in range(depth):
        block = f"{prefix}.joint_blocks.{index}"
        tensors |= half_block(f"{block}.x_block", width, depth, last=False)
        tensors |= half_block(f"{block}.context_block", width, depth, last=index == depth - 1)
    # Shift and scale; then a velocity that starts small, as that of a network whose last layer began at zero.
    tensors |= modulation(f"{prefix}.final_layer.adaLN_modulation.1", width, gates=(False, False))
    tensors |= linear(f"{prefix}.final_layer.linear", width, PATCH * PATCH * LATENT_CHANNELS, gain=0.3)
    return tensors


def half_block(name: str, width: int, depth: int, last: bool) -> Tensors:
    """One stream of a joint block. The context of the last block only feeds the attention."""
    tensors = linear(f"{name}.attn.qkv", width, 3 * width)
    if last:
        return tensors | modulation(f"{name}.adaLN_modulation.1", width, gates=(False, False))
    into_residual = 1 / depth**0.5
    tensors |= modulation(f"{name}.adaLN_modulation.1", width, gates=(False, False, True, False, False, True))
    tensors |= linear(f"{name}.attn.proj", width, width, into_residual)
    tensors |= linear(f"{name}.mlp.fc1", width, 4 * width)
    tensors |= linear(f"{name}.mlp.fc2", 4 * width, width, into_residual)
    return tensors


def modulation(name: str, width: int, gates: tuple[bool, ...]) -> Tensors:
    """The layer that makes shifts, scales and gates of the conditioning; gates start half open."""
    tensors = linear(name, width, len(gates) * width, gain=0.2)
    offsets = np.repeat(np.array(gates, dtype=np.float16) / 2, width)
    return tensors | {f"{name}.bias": normal(f"{name}.bias", offsets.shape, 0.02) + offsets}


def position_table(grid: int, width: int) -> np.ndarray:
    """Sines and cosines of a patch's column, then of its row, as in `get_2d_sincos_pos_embed`; the grid spans 0 to 16.

    Shape [1, grid * grid, width].
    """
    quarter = width // 4
    positions = [16 * index / grid for index in range(grid)]
    angles = [[position * 10000 ** (-k / quarter) for k in range(quarter)] for position in positions]
    axis = np.array([[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles])
    columns = np.broadcast_to(axis[None, :, :], (grid, grid, width // 2))
    rows = np.broadcast_to(axis[:, None, :], (grid, grid, width // 2))
    return np.concatenate([columns, rows], axis=-1).reshape(1, grid * grid, width).astype(np.float16)
