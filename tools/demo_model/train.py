"""Trains the demo's tiny SD3 on drawings: first the autoencoder, then the text encoders and the MMDiT together.

    pip install -r tools/demo_model/requirements.txt
    python tools/demo_model/train.py [folder]

Made for one GPU, on which it takes about eight minutes; `--vae-seconds` and `--model-seconds` set the time of both
parts, and the learning rates fall to zero over it. Each run gives other weights: how many steps fit in differs.
"""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import tokenizer_files
import torch
from draw import Look, Painter, comic, flat, wild
from safetensors.torch import save_file
from scenes import COLOURS, SIDE, caption_with_ending, combinations, draw_scene
from text_encoders import CLIP_LENGTH, T5, Clip
from torch import Tensor, nn
from transformer import Transformer
from vae import SCALE, SHIFT, Vae, process_in, process_out, sample_posterior

LATENTS = 16
VAE_WIDTH = 64
CLIP_WIDTH = 64
CLIP_VOCABULARY = 768
T5_WIDTH = 128
T5_VOCABULARY = 600
T5_LENGTH = 32
# As in the released models there is a block, and a head, for each 64 of the width.
WIDTH, DEPTH = 128, 2
POSITION_GRID = 32
CAPTIONS_A_PICTURE = 2
SEED = 3


class Model(nn.Module):
    """The text encoders and the MMDiT."""

    def __init__(self):
        super().__init__()
        self.clip_l = Clip(CLIP_WIDTH, 2, CLIP_VOCABULARY, quick=True, projection=False)
        self.clip_g = Clip(CLIP_WIDTH, 3, CLIP_VOCABULARY, quick=False, projection=True)
        self.t5 = T5(T5_WIDTH, 2, 2, 128, T5_VOCABULARY, T5_LENGTH)
        self.transformer = Transformer(WIDTH, DEPTH, POSITION_GRID, T5_WIDTH, 2 * CLIP_WIDTH, LATENTS)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Context and pooled vector of texts' ids: CLIP-L's, CLIP-G's and T5's side by side."""
        ids_l, ids_g, ids_t5 = ids.split([CLIP_LENGTH, CLIP_LENGTH, T5_LENGTH], dim=1)
        (states_l, pooled_l), (states_g, pooled_g) = self.clip_l(ids_l), self.clip_g(ids_g)
        clips = torch.cat([states_l, states_g], dim=-1)
        return torch.cat([clips, self.t5(ids_t5).to(clips.dtype)], dim=1), torch.cat([pooled_l, pooled_g], dim=-1)


class Texts:
    """Texts to ids, with each encoder's own padding."""

    def __init__(self):
        self.clip, self.t5 = tokenizer_files.clip(CLIP_VOCABULARY), tokenizer_files.t5(T5_VOCABULARY)

    def ids(self, texts: list[str]) -> Tensor:
        """[texts, 77 + 77 + 32]."""
        rows = np.zeros((len(texts), 2 * CLIP_LENGTH + T5_LENGTH), dtype=np.int64)
        # CLIP-L pads with the end of the text, the others with 0.
        rows[:, :CLIP_LENGTH] = CLIP_VOCABULARY - 1
        for row, clip, t5 in zip(rows, self.clip.encode_batch(texts), self.t5.encode_batch(texts)):
            for start, ids in [(0, clip.ids), (CLIP_LENGTH, clip.ids), (2 * CLIP_LENGTH, t5.ids)]:
                row[start : start + len(ids)] = ids
        return torch.from_numpy(rows)


class Average:
    """The running mean of a network's weights, which is what is saved."""

    def __init__(self, network: nn.Module, decay: float):
        self.network, self.decay = network, decay
        self.weights = [weights.detach().clone() for weights in network.parameters()]

    def update(self) -> None:
        torch._foreach_lerp_(self.weights, [w.detach() for w in self.network.parameters()], 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        for weights, mean in zip(self.network.parameters(), self.weights):
            weights.copy_(mean)


class Clock:
    """A training's share of time, from 0 to 1, and its learning rate."""

    def __init__(self, seconds: float, rate: float, warmup: int):
        self.seconds, self.rate, self.warmup = seconds, rate, warmup
        self.start, self.step = time.monotonic(), 0

    def share(self) -> float:
        return (time.monotonic() - self.start) / self.seconds

    def learning_rate(self) -> float:
        """A linear start, then half a cosine."""
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.share())))
        return self.rate * max(0.01, fall) * min(1.0, (self.step + 1) / self.warmup)


def optimizer_of(network: nn.Module, cuda: bool) -> torch.optim.AdamW:
    device = next(network.parameters()).device
    rate = torch.tensor(0.0, device=device)
    kinds = {"fused": True, "capturable": True} if cuda else {}
    return torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, **kinds)


def train_vae(seconds: float, batch: int, device: torch.device) -> Vae:
    vae = Vae(VAE_WIDTH, LATENTS).to(device, memory_format=torch.channels_last)
    optimizer, average = optimizer_of(vae, device.type == "cuda"), Average(vae, 0.998)
    painter, draws = Painter(device), random.Random(SEED)
    clock, scaled = Clock(seconds, 8e-4, 200), False
    every = combinations(kept_for_test=False)
    while clock.share() < 1:
        early = clock.share() < 0.6
        count = batch if early else max(1, batch // 3)
        images = vae_pictures(painter, draws, every, count)
        if early:
            top, left = draws.randrange(SIDE // 2), draws.randrange(SIDE // 2)
            images = images[:, :, top : top + SIDE // 2, left : left + SIDE // 2]
        elif not scaled:
            # Now, so that the rest of the training heals the edges, where the decoder pads with zeros.
            average.apply()
            standardise(vae, painter, draws, every, shifted=True)
            optimizer, average, scaled = optimizer_of(vae, device.type == "cuda"), Average(vae, 0.998), True
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            mean, log_variance = vae.encoder(images)
            decoded = vae.decoder(sample_posterior(mean, log_variance))
        error = (decoded - images).abs().mean() + edge_error(decoded, images)
        # How far the latents are from a standard normal, in the VAE's own units.
        scale = SCALE if scaled else 1.0
        middle = SHIFT if scaled else 0.0
        spread = (scale**2) * log_variance.exp() - log_variance - 2 * math.log(scale) - 1
        divergence = 0.5 * ((scale * (mean - middle)) ** 2 + spread).mean()
        loss = error + 3e-4 * divergence
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.param_groups[0]["lr"].fill_(clock.learning_rate())
        optimizer.step()
        average.update()
        if clock.step % 200 == 0:
            size = f"{images.shape[0]} of {images.shape[-1]} px"
            print(f"vae {clock.step} ({size}), {100 * clock.share():.0f} %: {error:.4f}, {divergence:.3f} nats")
        clock.step += 1
    average.apply()
    standardise(vae, painter, draws, every, shifted=False)
    print(f"vae done after {clock.step} steps")
    return vae


def vae_pictures(painter: Painter, draws: random.Random, every: list, count: int) -> Tensor:
    """Flat ones, comic ones and wild ones; half of all in any colours."""
    scenes = [draw_scene(draws.choice(every), draws) for _ in range(count)]
    third = count // 3
    looks = zip(flat(count - 2 * third), comic(third), wild(third))
    # A wild look's ink has three channels, the others' has one.
    look = Look(*(torch.cat([part.expand(-1, parts[-1].shape[1], 1, 1) for part in parts]) for parts in looks))
    own = torch.tensor([[COLOURS[s.colour], COLOURS[s.background]] for s in scenes]) / 255
    colours = torch.where(torch.rand(count, 1, 1) < 0.5, own, torch.rand(count, 2, 3))
    return painter.paint(scenes, look, colours)


def edge_error(decoded: Tensor, images: Tensor) -> Tensor:
    """The error of the differences between neighbours, which keeps edges sharp."""
    error = decoded - images
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


@torch.no_grad()
def standardise(vae: Vae, painter: Painter, draws: random.Random, every: list, shifted: bool) -> None:
    """Gives each latent channel the mean and the deviation that SD3's constants take away."""
    drawn = []
    for _ in range(16):
        scenes = [draw_scene(draws.choice(every), draws) for _ in range(32)]
        images = painter.paint(scenes, flat(len(scenes))).contiguous(memory_format=torch.channels_last)
        drawn.append(sample_posterior(*vae.encoder(images)).transpose(0, 1).flatten(1))
    values = torch.cat(drawn, dim=1)
    mean, deviation = values.mean(1), values.std(1)
    scale = 1 / (SCALE * deviation)
    shift = mean - SHIFT / scale if shifted else torch.zeros_like(mean)
    vae.scale_latents(shift, scale)
    print("latents:", ", ".join(f"{m:.2f}±{d:.2f}" for m, d in zip(mean.tolist(), deviation.tolist())))


@torch.no_grad()
def encoded_pictures(vae: Vae, texts: Texts, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Latents, [count, 2, 16, h, w] (mean and log-variance), and ids of their captions."""
    painter, draws = Painter(device), random.Random(SEED + 1)
    every = combinations(kept_for_test=False)
    latents, captions = [], []
    for start in range(0, count, 256):
        scenes = [draw_scene(draws.choice(every), draws) for _ in range(min(256, count - start))]
        images = painter.paint(scenes, flat(len(scenes))).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            moments = vae.encoder(images)
        latents.append(torch.stack(moments, dim=1).half())
        captions += [caption_with_ending(scene, draws) for scene in scenes for _ in range(CAPTIONS_A_PICTURE)]
    ids = texts.ids(captions).short().to(device)
    return torch.cat(latents), ids.unflatten(0, (count, CAPTIONS_A_PICTURE))


def train_model(vae: Vae, seconds: float, batch: int, pictures: int, device: torch.device) -> Model:
    texts = Texts()
    latents, ids = encoded_pictures(vae, texts, pictures, device)
    print(f"{len(latents)} pictures encoded")
    empty = texts.ids([""]).to(device)
    model = Model().to(device)
    cuda = device.type == "cuda"
    optimizer, average = optimizer_of(model, cuda), Average(model, 0.999)
    shown = torch.zeros((), device=device)

    def step() -> None:
        picture = torch.randint(len(latents), (batch,), device=device)
        caption = torch.randint(CAPTIONS_A_PICTURE, (batch,), device=device)
        chosen = ids[picture, caption].long()
        dropped = torch.rand(batch, 1, device=device) < 0.1
        clean = process_in(sample_posterior(*latents[picture].float().unbind(1)))
        noise = torch.randn_like(clean)
        u = torch.sigmoid(torch.randn(batch, device=device))
        sigma = 3 * u / (1 + 2 * u)
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None])
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda, cache_enabled=False):
            context, pooled = model.encode(torch.where(dropped, empty, chosen))
            velocity = model.transformer(noisy, 1000 * sigma, context, pooled)
        loss = (velocity - (noise - clean)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update()
        shown.lerp_(loss.detach(), 0.01)

    replay = graphed(step) if cuda else step
    clock = Clock(seconds, 1e-3, 500)
    while clock.share() < 1:
        optimizer.param_groups[0]["lr"].fill_(clock.learning_rate())
        replay()
        if clock.step % 1000 == 0:
            print(f"model {clock.step}, {100 * clock.share():.0f} %: {shown.item():.4f}")
        elif clock.step % 20 == 0:
            shown.item()  # Waits for the device, so that the clock is its own.
        clock.step += 1
    average.apply()
    print(f"model done after {clock.step} steps of {batch}")
    return model


def graphed(step):
    """The step as one CUDA graph: it is many small operations, whose launches take longer than they do."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@torch.no_grad()
def sample(vae: Vae, model: Model, prompts: list[str], steps: int, cfg: float, device: torch.device) -> Tensor:
    """Images of prompts, as sd3pipe draws them but for the noise."""
    ids = Texts().ids([""] * len(prompts) + prompts).to(device)
    context, pooled = model.encode(ids)
    smallest = shifted(0.001)
    levels = [shifted(1 + (smallest - 1) * index / (steps - 1)) for index in range(steps)] + [0.0]
    latents = torch.randn(len(prompts), LATENTS, SIDE // 8, SIDE // 8, device=device)
    for level, following in zip(levels, levels[1:]):
        timesteps = torch.full((2 * len(prompts),), 1000 * level, device=device)
        without, told = model.transformer(torch.cat([latents] * 2), timesteps, context, pooled).chunk(2)
        latents = latents + (following - level) * (without + cfg * (told - without))
    return vae.decoder(process_out(latents)).clamp(-1, 1)


def shifted(u: float) -> float:
    return 3 * u / (1 + 2 * u)


def save(vae: Vae, model: Model, folder: Path) -> None:
    """The files that the demo's pipeline names, in 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {f"model.diffusion_model.{name}": w for name, w in model.transformer.state_dict().items()}
    checkpoint |= {f"first_stage_model.{name}": w for name, w in vae.state_dict().items()}
    encoders = {"clip_l": model.clip_l, "clip_g": model.clip_g, "t5xxl": model.t5}
    files = {"sd3_tiny": checkpoint} | {name: encoder.state_dict() for name, encoder in encoders.items()}
    for name, tensors in files.items():
        halves = {key: tensor.detach().half().cpu().contiguous() for key, tensor in tensors.items()}
        # One entry of metadata and no more: the order of several is not fixed.
        save_file(halves, folder / f"{name}.safetensors", metadata={"format": "pt"})
    texts = Texts()
    texts.clip.save(str(folder / "clip_tokenizer.json"))
    texts.t5.save(str(folder / "t5_tokenizer.json"))


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "model"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--vae-seconds", type=float, default=175)
    parser.add_argument("--model-seconds", type=float, default=290)
    parser.add_argument("--vae-batch", type=int, default=96)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=100_000)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = train_vae(arguments.vae_seconds, arguments.vae_batch, device).requires_grad_(False)
    model = train_model(vae, arguments.model_seconds, arguments.batch, arguments.pictures, device).eval()
    save(vae, model, arguments.folder)


if __name__ == "__main__":
    main()
