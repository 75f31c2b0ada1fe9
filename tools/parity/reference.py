"""The same training in PyTorch: diffusers' network, `torch.optim.AdamW`, transformers' schedule."""

import math

import torch
from diffusers import SD3Transformer2DModel
from draws import Draws
from formula import load
from lora import modules
from mmdit import configuration, to_diffusers
from peft import LoraConfig
from run import ALPHA, RANK, ROOT
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

PREFIX = "model.diffusion_model."
SCALE, SHIFT, SMALLEST_SIGMA = 1.5305, 0.0609, 1e-3


class Data:
    """The cached data of a run, and what is drawn for each sample of a step."""

    def __init__(self, run):
        self.settings = run.settings
        self.items = {item["id"]: item for item in run.artifact("captions")}
        self.latents = {item: run.tensors(entry) for item, entry in run.entries("latents", "latents").items()}
        self.buckets = {item: tuple(entry["size"]) for item, entry in run.entries("latents", "latents").items()}
        self.texts = {text: run.tensors(entry) for text, entry in run.entries("text", "text").items()}

    def steps(self, epoch):
        """The batches of each optimizer step: (item, repeat), one bucket a batch, buckets from narrow to wide."""
        buckets = {}
        for item in sorted(self.items):
            turns = [(item, repeat) for repeat in range(self.items[item]["repeats"])]
            buckets.setdefault(self.buckets[item], []).extend(turns)
        batches, size = [], self.settings["batch"]
        for (width, height), turns in sorted(buckets.items()):
            Draws(self.settings["seed"], "order in bucket", epoch, f"{width}x{height}").shuffle(turns)
            batches += [turns[start:start + size] for start in range(0, len(turns), size)]
        Draws(self.settings["seed"], "order of batches", epoch, "").shuffle(batches)
        count = self.settings["accumulate"]
        return [batches[start:start + count] for start in range(0, len(batches), count)]

    def sample(self, step, item, repeat, context_width):
        """Noisy latents, timestep, context, pooled vector and target."""
        settings = self.settings

        def draws(stream):
            return Draws(settings["seed"], stream, step, f"{item}#{repeat}")

        posterior = self.latents[item]
        raw = posterior["mean"] + torch.exp(posterior["log_variance"] / 2) * draws("posterior").noise(posterior["mean"].shape)
        clean = (raw - SHIFT) * SCALE
        noise = draws("noise").noise(clean.shape)
        u = 1 / (1 + math.exp(-draws("timestep").normals(1)[0]))
        sigma = max(SMALLEST_SIGMA, settings["shift"] * u / (1 + (settings["shift"] - 1) * u))
        texts = self.items[item]["texts"]
        text = texts[draws("caption variant").below(len(texts))]
        if draws("caption dropout").uniform() < settings["caption_dropout"]:
            text = ""
        encoded = self.texts[text]
        clips = torch.cat([encoded["clip_l.states"], encoded["clip_g.states"]], dim=-1)
        clips = torch.nn.functional.pad(clips, (0, context_width - clips.shape[-1]))
        t5 = encoded["t5.states"]
        if draws("T5 dropout").uniform() < settings["t5_dropout"]:
            t5 = torch.zeros_like(t5)
        pooled = torch.cat([encoded["clip_l.pooled"], encoded["clip_g.pooled"]])
        return sigma * noise + (1 - sigma) * clean, torch.tensor(1000 * sigma), torch.cat([clips, t5]), pooled, noise - clean


def weights():
    tensors = load_file(ROOT / "tests/model/sd3_tiny.safetensors")
    return {name.removeprefix(PREFIX): value.float() for name, value in tensors.items() if name.startswith(PREFIX)}


def diffusers_network(start):
    """The network of the tests' model, and its depth."""
    depth = len({name.split(".")[1] for name in start if name.startswith("joint_blocks.")})
    config = configuration(depth, False, [])
    width = start["context_embedder.weight"].shape[0]
    config |= dict(
        num_attention_heads=width // 64, caption_projection_dim=width, joint_attention_dim=start["context_embedder.weight"].shape[1],
        pooled_projection_dim=start["y_embedder.mlp.0.weight"].shape[1], pos_embed_max_size=math.isqrt(start["pos_embed"].shape[1]),
    )
    config["sample_size"] = 2 * config["pos_embed_max_size"]
    return load(SD3Transformer2DModel(**config), to_diffusers(start, depth)), depth, config


def step_loss(data, network, step, batches, context_width):
    """Adds up gradients; the mean of the samples' own means."""
    samples, total = sum(map(len, batches)), 0.0
    for batch in batches:
        drawn = zip(*(data.sample(step, item, repeat, context_width) for item, repeat in batch))
        noisy, timesteps, context, pooled, target = map(torch.stack, drawn)
        velocity = network(
            hidden_states=noisy, timestep=timesteps, encoder_hidden_states=context, pooled_projections=pooled, return_dict=False,
        )[0]
        loss = (velocity - target).square().mean(dim=(1, 2, 3)).sum() / samples
        loss.backward()
        total += loss.item()
    return total


def optimise(run, data, trained, network, context_width, steps):
    """Losses of the first `steps` steps."""
    settings = run.settings
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    per_epoch = [data.steps(epoch) for epoch in range(settings["epochs"])]
    schedule = get_cosine_schedule_with_warmup(optimizer, settings["warmup"], sum(map(len, per_epoch)))
    losses = []
    for batches in [batches for epoch in per_epoch for batches in epoch][:steps]:
        losses.append(step_loss(data, network, len(losses), batches, context_width))
        torch.nn.utils.clip_grad_norm_(trained, settings["largest_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses


def full(run, steps):
    """Every weight but the table of positions."""
    start = weights()
    model, depth, config = diffusers_network(start)
    trained = {name: value.clone().requires_grad_() for name, value in sorted(start.items()) if name != "pos_embed"}

    def network(**inputs):
        # Trained under the single file's names, so that the norm that gradients are clipped by has its tensors.
        single = {"pos_embed": start["pos_embed"]} | trained
        return torch.func.functional_call(model, to_diffusers(single, depth), (), inputs)

    return optimise(run, Data(run), list(trained.values()), network, config["joint_attention_dim"], steps)


def adapter_at_first(seed, layers):
    """What reads is drawn evenly from ±1/√inputs, what writes is 0."""
    start = {}
    for layer, (outputs, inputs) in layers.items():
        draws, bound = Draws(seed, "adapter", 0, layer), 1 / math.sqrt(inputs)
        drawn = [(2 * draws.uniform() - 1) * bound for _ in range(RANK * inputs)]
        start[f"{layer}.lora_down.weight"] = torch.tensor(drawn, dtype=torch.float32).reshape(RANK, inputs)
        start[f"{layer}.lora_up.weight"] = torch.zeros(outputs, RANK)
    return start


def lora(run, steps):
    """PEFT's adapter in every layer of the joint blocks; queries, keys and values share the half that reads."""
    start = weights()
    model, depth, config = diffusers_network(start)
    found = modules({name: list(value.shape) for name, value in start.items()}, depth)
    found = {module: place for module, place in found.items() if place[0].startswith("joint_blocks.")}
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(found)))
    layers = {owner: start[f"{owner}.weight"].shape for owner, _ in found.values()}
    first = adapter_at_first(run.settings["seed"], layers)
    trained = {name: value.requires_grad_() for name, value in sorted(first.items())}

    def network(**inputs):
        given = {}
        for module, (owner, rows) in found.items():
            given[f"{module}.lora_A.default.weight"] = trained[f"{owner}.lora_down.weight"]
            given[f"{module}.lora_B.default.weight"] = trained[f"{owner}.lora_up.weight"][rows]
        return torch.func.functional_call(model, given, (), inputs)

    return optimise(run, Data(run), list(trained.values()), network, config["joint_attention_dim"], steps)


METHODS = {"full": full, "lora": lora}
