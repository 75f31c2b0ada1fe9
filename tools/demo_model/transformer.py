"""The MMDiT of SD3-medium at any size; parameters are named as in a single file under `model.diffusion_model.`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2
HEAD_WIDTH = 64
TIMESTEP_FEATURES = 256


class Attention(nn.Module):
    def __init__(self, width: int, last: bool):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        if not last:
            self.proj = nn.Linear(width, width)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Stream(nn.Module):
    """One half of a block. The text of the last block only feeds the attention."""

    def __init__(self, width: int, last: bool):
        super().__init__()
        self.last = last
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (2 if last else 6) * width))
        self.attn = Attention(width, last)
        if not last:
            self.mlp = FeedForward(width)

    def prepare(self, x: Tensor, conditioning: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each norm is modulated by, and queries, keys and values, [B, 3, heads, N, 64]."""
        parts = list(self.adaLN_modulation(conditioning)[:, None].chunk(2 if self.last else 6, dim=-1))
        qkv = self.attn.qkv(modulated(x, parts[0], parts[1]))
        return parts, qkv.unflatten(-1, (3, -1, HEAD_WIDTH)).permute(0, 2, 3, 1, 4)

    def finish(self, x: Tensor, attended: Tensor, parts: list[Tensor]) -> Tensor:
        if self.last:
            return x
        x = x + self.attn.proj(attended) * parts[2]
        return x + self.mlp(modulated(x, parts[3], parts[4])) * parts[5]


class JointBlock(nn.Module):
    def __init__(self, width: int, last: bool):
        super().__init__()
        self.x_block, self.context_block = Stream(width, False), Stream(width, last)

    def forward(self, image: Tensor, context: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor]:
        context_parts, context_qkv = self.context_block.prepare(context, conditioning)
        image_parts, image_qkv = self.x_block.prepare(image, conditioning)
        q, k, v = torch.cat([context_qkv, image_qkv], dim=3).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        texts = context.shape[1]
        image = self.x_block.finish(image, attended[:, texts:], image_parts)
        return image, self.context_block.finish(context, attended[:, :texts], context_parts)


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(conditioning)[:, None].chunk(2, dim=-1)
        return self.linear(modulated(x, shift, scale))


class Embedder(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Patches(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, PATCH, stride=PATCH)


class Transformer(nn.Module):
    """Gives the velocity, noise minus image, of noisy latents."""

    def __init__(self, width: int, depth: int, grid: int, context_width: int, pooled_width: int, channels: int):
        super().__init__()
        self.grid = grid
        self.register_buffer("pos_embed", position_table(grid, width))
        self.x_embedder = Patches(channels, width)
        self.t_embedder = Embedder(TIMESTEP_FEATURES, width)
        self.y_embedder = Embedder(pooled_width, width)
        self.context_embedder = nn.Linear(context_width, width)
        self.joint_blocks = nn.ModuleList(JointBlock(width, index == depth - 1) for index in range(depth))
        self.final_layer = FinalLayer(width, PATCH * PATCH * channels)
        for name, weights in self.named_parameters():
            if weights.ndim > 1:
                nn.init.xavier_uniform_(weights.flatten(1))
            else:
                nn.init.zeros_(weights)
            # Each block begins as the identity, and the velocity at zero.
            if "adaLN" in name or "final_layer" in name:
                nn.init.zeros_(weights)

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """`timesteps` are a thousand times the noise level."""
        conditioning = self.t_embedder(timestep_features(timesteps)) + self.y_embedder(pooled)
        image = self.x_embedder.proj(latents)
        rows, columns = image.shape[2:]
        image = image.flatten(2).transpose(1, 2) + self.positions(rows, columns)
        context = self.context_embedder(context)
        for block in self.joint_blocks:
            image, context = block(image, context, conditioning)
        patches = self.final_layer(image, conditioning).float()
        patches = patches.unflatten(1, (rows, columns)).unflatten(-1, (PATCH, PATCH, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(latents.shape)

    def positions(self, rows: int, columns: int) -> Tensor:
        top, left = (self.grid - rows) // 2, (self.grid - columns) // 2
        table = self.pos_embed.unflatten(1, (self.grid, self.grid))
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def timestep_features(timesteps: Tensor) -> Tensor:
    half = TIMESTEP_FEATURES // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def position_table(grid: int, width: int) -> Tensor:
    """Sines and cosines of a patch's column, then of its row, counted from the middle: [1, grid * grid, width].

    Rounded to the 16 bits that the file keeps.
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = (torch.arange(grid, dtype=torch.float64) - grid // 2)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = [part.expand(grid, grid, -1) for part in (axis[None, :], axis[:, None])]
    return torch.cat([columns, rows], dim=-1).reshape(1, grid * grid, width).half().float()
