"""The autoencoder of SD3 at any width; parameters are named as in a single file under `first_stage_model.`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHIFT, SCALE = 0.0609, 1.5305
LEVELS = 4


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = norm(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class PixelAttention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = [nn.Conv2d(width, width, 1) for _ in range(4)]

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(x)
        q, k, v = [part(inner).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v)]
        attended = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(attended.transpose(1, 2).reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Residual(width), PixelAttention(width), Residual(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Resample(nn.Module):
    """Half the size, with zeros to the right and below; or double."""

    def __init__(self, width: int, halve: bool):
        super().__init__()
        self.halve = halve
        self.conv = nn.Conv2d(width, width, 3, stride=2 if halve else 1, padding=0 if halve else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.halve else F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    def __init__(self, width: int, blocks: int, resampled: str | None):
        super().__init__()
        self.block = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.resampled = resampled
        if resampled:
            setattr(self, resampled, Resample(width, resampled == "downsample"))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return getattr(self, self.resampled)(x) if self.resampled else x


class Encoder(nn.Module):
    def __init__(self, width: int, latents: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(Level(width, 2, "downsample" if i < LEVELS - 1 else None) for i in range(LEVELS))
        self.mid, self.norm_out = Middle(width), norm(width)
        self.conv_out = nn.Conv2d(width, 2 * latents, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the variance of the raw latents."""
        x = self.conv_in(image)
        for level in self.down:
            x = level(x)
        mean, log_variance = self.conv_out(F.silu(self.norm_out(self.mid(x)))).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)


class Decoder(nn.Module):
    def __init__(self, width: int, latents: int):
        super().__init__()
        self.conv_in, self.mid = nn.Conv2d(latents, width, 3, padding=1), Middle(width)
        self.up = nn.ModuleList(Level(width, 3, "upsample" if i > 0 else None) for i in range(LEVELS))
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, raw: Tensor) -> Tensor:
        x = self.mid(self.conv_in(raw))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x))).float()


class Vae(nn.Module):
    """Images in [-1, 1] to raw latents of an eighth of their size, and back."""

    def __init__(self, width: int, latents: int):
        super().__init__()
        self.encoder, self.decoder = Encoder(width, latents), Decoder(width, latents)

    @torch.no_grad()
    def scale_latents(self, shift: Tensor, scale: Tensor) -> None:
        """Makes each channel `(z - shift) * scale`, and the decoder undo it (but for the pixels at the very edge)."""
        last, first = self.encoder.conv_out, self.decoder.conv_in
        channels = len(scale)
        last.weight[:channels] *= scale[:, None, None, None]
        last.bias[:channels] = (last.bias[:channels] - shift) * scale
        last.bias[channels:] += 2 * scale.log()
        # The variance's own weights stay: a factor is a sum in its logarithm.
        first.bias += (first.weight * shift[None, :, None, None]).sum((1, 2, 3))
        first.weight /= scale[None, :, None, None]


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width), width, eps=1e-6)


def sample_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def process_in(raw: Tensor) -> Tensor:
    return (raw - SHIFT) * SCALE


def process_out(latents: Tensor) -> Tensor:
    return latents / SCALE + SHIFT
