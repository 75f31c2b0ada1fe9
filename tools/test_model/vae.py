"""The autoencoder under `first_stage_model.`, in the layout of SD3's: four levels, a factor of eight."""

from weights import Tensors, convolution, norm

# A layer after SiLU sees about 0.6 of the magnitude that the normalisation before it gave.
AFTER_SILU = 0.6
# What the checkpoint's scale of 1.5305 brings to a deviation of one.
LATENT_DEVIATION = 1 / 1.5305
LATENT_MEAN = 0.0609
LOG_VARIANCE = -8.0


def vae(channels: int, multipliers: tuple[int, ...], latent_channels: int) -> Tensors:
    """Encoder and decoder; the encoder has two blocks a level, the decoder three."""
    widths = [channels * multiplier for multiplier in multipliers]
    return encoder(widths, latent_channels) | decoder(widths, latent_channels)


def encoder(widths: list[int], latent_channels: int) -> Tensors:
    prefix = "first_stage_model.encoder"
    # Photographs have a deviation of about one half in [-1, 1].
    tensors = convolution(f"{prefix}.conv_in", 3, widths[0], 3, gain=2.0)
    inputs = widths[0]
    for level, width in enumerate(widths):
        for block in range(2):
            tensors |= residual(f"{prefix}.down.{level}.block.{block}", inputs, width)
            inputs = width
        if level < len(widths) - 1:
            tensors |= convolution(f"{prefix}.down.{level}.downsample.conv", width, width, 3)
    tensors |= middle(f"{prefix}.mid", inputs) | norm(f"{prefix}.norm_out", inputs)

    # Of the outputs the first half are means, the second logarithms of variances, which hardly vary.
    name = f"{prefix}.conv_out"
    tensors |= convolution(name, inputs, 2 * latent_channels, 3, gain=LATENT_DEVIATION / AFTER_SILU)
    tensors[f"{name}.weight"][latent_channels:] /= 16
    tensors[f"{name}.bias"][:latent_channels] += LATENT_MEAN
    tensors[f"{name}.bias"][latent_channels:] += LOG_VARIANCE
    return tensors


def decoder(widths: list[int], latent_channels: int) -> Tensors:
    prefix = "first_stage_model.decoder"
    inputs = widths[-1]
    tensors = convolution(f"{prefix}.conv_in", latent_channels, inputs, 3, gain=1 / LATENT_DEVIATION)
    tensors |= middle(f"{prefix}.mid", inputs)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(3):
            tensors |= residual(f"{prefix}.up.{level}.block.{block}", inputs, width)
            inputs = width
        if level > 0:
            tensors |= convolution(f"{prefix}.up.{level}.upsample.conv", width, width, 3)
    tensors |= norm(f"{prefix}.norm_out", inputs)
    return tensors | convolution(f"{prefix}.conv_out", inputs, 3, 3, gain=0.4 / AFTER_SILU)


def residual(name: str, inputs: int, outputs: int) -> Tensors:
    tensors = norm(f"{name}.norm1", inputs) | convolution(f"{name}.conv1", inputs, outputs, 3, 1 / AFTER_SILU)
    tensors |= norm(f"{name}.norm2", outputs) | convolution(f"{name}.conv2", outputs, outputs, 3, 0.4 / AFTER_SILU)
    if inputs != outputs:
        tensors |= convolution(f"{name}.nin_shortcut", inputs, outputs, 1)
    return tensors


def middle(name: str, width: int) -> Tensors:
    tensors = residual(f"{name}.block_1", width, width) | residual(f"{name}.block_2", width, width)
    tensors |= norm(f"{name}.attn_1.norm", width)
    for layer, gain in [("q", 1.0), ("k", 1.0), ("v", 1.0), ("proj_out", 0.4)]:
        tensors |= convolution(f"{name}.attn_1.{layer}", width, width, 1, gain)
    return tensors
