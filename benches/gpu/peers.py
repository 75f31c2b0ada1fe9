"""The other side of the table: the rows of main.rs by PyTorch, diffusers, transformers and bitsandbytes, at the same shapes.

    python benches/gpu/peers.py [--json FILE] [--device cuda] [--tiny] [SECTION...]

Weights are random, everything is in bf16. Memory is what PyTorch's allocator holds of the device at most, as it is for us. `--tiny`
makes everything small, to try this without a GPU."""

import argparse
import functools
import gc
import json
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

# As in measure.rs.
WARM_UPS, SECONDS, RUNS = 6, 10.0, 10


class Bench:
    def __init__(self, device, tiny, lines):
        self.device, self.tiny, self.lines = device, tiny, lines
        self.on_gpu = device == "cuda"
        self.section = ""

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16)

    def size(self, full, small):
        return small if self.tiny else full

    def build(self, make):
        """A network on the device, in bf16."""
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(self.device):
                return make().to(torch.bfloat16)
        finally:
            torch.set_default_dtype(torch.float32)

    def sync(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def free(self):
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def write(self, **line):
        if self.lines:
            print(json.dumps(line, ensure_ascii=False), file=self.lines, flush=True)

    def run(self, name, section):
        print(f"-- {name}", flush=True)
        self.section = name
        try:
            section(self)
        except Exception as error:
            self.fail(name, error)
        self.free()
        self.write(section=name, done=True)

    def fail(self, row, error):
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{row}: failed: {reason}", flush=True)
        self.write(section=self.section, row=row, error=reason)

    def time(self, row, work, launches=1):
        try:
            self.write(section=self.section, row=row, **self.measure(row, work, launches))
        except Exception as error:
            self.fail(row, error)

    def measure(self, row, work, launches):
        def once():
            start = time.perf_counter()
            kept = [work() for _ in range(launches)]
            self.sync()
            seconds = time.perf_counter() - start
            del kept
            return seconds / launches

        start = time.perf_counter()
        first = once() * launches
        last = once()
        for _ in range(2, WARM_UPS):
            if time.perf_counter() - start < SECONDS:
                last = once()
        self.free()
        once()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        times = sorted(once() for _ in range(min(max(int(SECONDS / (last * launches)), 3), RUNS)))
        held = torch.cuda.max_memory_reserved() if self.on_gpu else 0
        allocated = torch.cuda.max_memory_allocated() if self.on_gpu else 0
        median = times[len(times) // 2]
        print(
            f"{row}: {median * 1e3:.3f} ms ({times[0] * 1e3:.3f} to {times[-1] * 1e3:.3f}), first {first:.1f} s, "
            f"{held / 2**30:.2f} GiB held, {allocated / 2**30:.2f} GiB allocated",
            flush=True,
        )
        return dict(median=median, fastest=times[0], slowest=times[-1], runs=len(times), first=first, held=held, allocated=allocated)


def ceiling(bench):
    side = bench.size(8192, 64)
    a, b = bench.random(side, side), bench.random(side, side)
    bench.time("8192×8192×8192", lambda: a @ b, launches=20)
    source = bench.random(bench.size(1 << 30, 1 << 10))
    target = torch.empty_like(source)
    bench.time("copy of 2 GiB", lambda: target.copy_(source))


def products(bench):
    shapes = [(4096, 1536, 1536), (4096, 1536, 4608), (4096, 1536, 6144), (4096, 6144, 1536), (333, 1536, 6144)]
    for rows, inner, columns in shapes:
        small = bench.size(1, 16)
        x, weight = bench.random(rows // small, inner // small), bench.random(columns // small, inner // small)
        work = functools.partial(torch.nn.functional.linear, x, weight)
        bench.time(f"{rows}×{inner}×{columns}", work, launches=20)
        bench.time(f"{rows}×{inner}×{columns}, alone", work)


def attention(bench):
    tokens = bench.size(4096 + 333, 45)
    parts = [bench.random(1, tokens, 24, 64).requires_grad_() for _ in range(3)]

    def forward():
        return scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))

    bench.time("attention forward", torch.no_grad()(forward))
    bench.time("attention forward and backward", lambda: torch.autograd.grad(forward().sum(), parts))


def text(bench):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    def clip(row, width, layers, activation):
        width, layers = bench.size((width, layers), (64, 2))
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
            projection_dim=width, hidden_act=activation, eos_token_id=49407,
        )
        encoder = bench.build(lambda: CLIPTextModelWithProjection(config)).eval()
        ids = torch.arange(77, device=bench.device)[None]
        bench.time(row, torch.no_grad()(lambda: encoder(ids, output_hidden_states=True)))

    clip("CLIP-L", 768, 12, "quick_gelu")
    bench.free()
    clip("CLIP-G", 1280, 32, "gelu")
    bench.free()
    config = T5Config(
        vocab_size=32128, d_model=bench.size(4096, 64), d_kv=64, d_ff=bench.size(10240, 128), num_layers=bench.size(24, 2),
        num_heads=bench.size(64, 1), feed_forward_proj="gated-gelu", use_cache=False, is_encoder_decoder=False,
    )
    encoder = bench.build(lambda: T5EncoderModel(config)).eval()
    ids = torch.arange(256, device=bench.device)[None]
    bench.time("T5-XXL, 256 tokens", torch.no_grad()(lambda: encoder(ids)))


def autoencoder(bench):
    from diffusers import AutoencoderKL

    return bench.build(
        lambda: AutoencoderKL(
            block_out_channels=bench.size((128, 256, 512, 512), (32, 32, 32, 32)), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=16, use_quant_conv=False,
            use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609,
        )
    ).eval()


def vae(bench):
    network = autoencoder(bench)
    side = bench.size(1024, 64)
    image, latents = bench.random(1, 3, side, side), bench.random(1, 16, side // 8, side // 8)
    bench.time("VAE encode", torch.no_grad()(lambda: network.encode(image).latent_dist.mean))
    bench.time("VAE decode", torch.no_grad()(lambda: network.decode(latents).sample))


class Network:
    """SD3-medium's MMDiT and what goes into it."""

    def __init__(self, bench):
        from diffusers import SD3Transformer2DModel

        layers, heads, side = bench.size((24, 24, 128), (2, 2, 8))
        make = lambda: SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=layers, attention_head_dim=64,
            num_attention_heads=heads, joint_attention_dim=4096, caption_projection_dim=64 * heads, pooled_projection_dim=2048,
            pos_embed_max_size=192,
        )
        self.network = self.model = bench.build(make)
        self.inputs = dict(
            hidden_states=bench.random(1, 16, side, side), encoder_hidden_states=bench.random(1, 333, 4096),
            pooled_projections=bench.random(1, 2048), timestep=torch.full((1,), 500.0, device=bench.device),
        )

    def forward(self):
        return self.model(**self.inputs).sample

    def backward(self):
        self.forward().float().pow(2).mean().backward()

    def clear(self):
        self.network.zero_grad(set_to_none=True)

    def gradients(self):
        self.backward()
        self.clear()

    def step(self, optimizer):
        self.backward()
        optimizer.step()
        self.clear()

    def adamw_8bit(self):
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(self.network.parameters(), lr=1e-6)


def forward(bench):
    network = Network(bench)
    bench.time("MMDiT forward", torch.no_grad()(network.forward))


def backward(bench):
    network = Network(bench)
    bench.time("MMDiT forward and backward", network.gradients)


def recipe(bench):
    network = Network(bench)
    network.network.enable_gradient_checkpointing()
    network.network.train()
    optimizer = network.adamw_8bit()
    bench.time("step by blocks, 8-bit AdamW", lambda: network.step(optimizer))


def step(bench):
    network = Network(bench)
    optimizer = network.adamw_8bit()
    bench.time("step, 8-bit AdamW", lambda: network.step(optimizer))
    network.backward()
    bench.time("8-bit AdamW alone", optimizer.step)
    network.clear()
    del optimizer
    bench.free()
    optimizer = torch.optim.AdamW(network.network.parameters(), lr=1e-6, fused=True)
    bench.time("step, AdamW", lambda: network.step(optimizer))


def sample(bench):
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline(
        transformer=Network(bench).network.eval(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder(bench),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    side = bench.size(1024, 64)
    names = ["prompt_embeds", "negative_prompt_embeds"], ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    texts = {name: bench.random(1, 333, 4096) for name in names[0]} | {name: bench.random(1, 2048) for name in names[1]}
    draw = lambda: pipeline(num_inference_steps=28, guidance_scale=7.0, height=side, width=side, output_type="np", **texts).images
    bench.time("28 guided steps and decoding", draw)


def compiled(bench):
    network = Network(bench)
    network.model = torch.compile(network.network)
    optimizer = network.adamw_8bit()
    bench.time("step, 8-bit AdamW, compiled", lambda: network.step(optimizer))


# What takes longest comes last, as in main.rs.
SECTIONS = [ceiling, products, attention, text, vae, forward, backward, recipe, step, sample, compiled]


def versions(device):
    import importlib.metadata

    packages = ["torch", "diffusers", "transformers", "bitsandbytes"]
    found = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    return dict(device=torch.cuda.get_device_name() if device == "cuda" else device, versions=found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(section.__name__ for section in SECTIONS))
    parser.add_argument("--json", type=argparse.FileType("w", encoding="utf-8"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(arguments.device, arguments.tiny, arguments.json)
    bench.write(**versions(arguments.device))
    for section in SECTIONS:
        if not arguments.sections or section.__name__ in arguments.sections:
            bench.run(section.__name__, section)


if __name__ == "__main__":
    main()
