"""Goldens of the MMDiT in its three forms, by diffusers' SD3Transformer2DModel."""

import torch
from diffusers import SD3Transformer2DModel

from formula import load, save, uniform, weights

HEADS, CHANNELS, CONTEXT, POOLED, GRID = 2, 16, 24, 20, 12
WIDTH = 64 * HEADS
HEIGHT, WIDE = 6, 10
OFFSET = (1, 6)


def single_file_shapes(depth, qk_norm, dual, context=CONTEXT, pooled=POOLED):
    shapes = {
        "pos_embed": [1, GRID * GRID, WIDTH],
        "x_embedder.proj.weight": [WIDTH, CHANNELS, 2, 2],
        "x_embedder.proj.bias": [WIDTH],
    }

    def linear(name, outputs, inputs):
        shapes[f"{name}.weight"] = [outputs, inputs]
        shapes[f"{name}.bias"] = [outputs]

    linear("t_embedder.mlp.0", WIDTH, 256)
    linear("t_embedder.mlp.2", WIDTH, WIDTH)
    linear("y_embedder.mlp.0", WIDTH, pooled)
    linear("y_embedder.mlp.2", WIDTH, WIDTH)
    linear("context_embedder", WIDTH, context)
    for i in range(depth):
        last = i == depth - 1
        for stream in ("x_block", "context_block"):
            name = f"joint_blocks.{i}.{stream}"
            ends_here = last and stream == "context_block"
            twice = stream == "x_block" and i in dual
            linear(f"{name}.adaLN_modulation.1", (9 if twice else 2 if ends_here else 6) * WIDTH, WIDTH)
            for attention in ("attn", "attn2") if twice else ("attn",):
                linear(f"{name}.{attention}.qkv", 3 * WIDTH, WIDTH)
                if qk_norm:
                    shapes[f"{name}.{attention}.ln_q.weight"] = [64]
                    shapes[f"{name}.{attention}.ln_k.weight"] = [64]
                if not ends_here:
                    linear(f"{name}.{attention}.proj", WIDTH, WIDTH)
            if not ends_here:
                linear(f"{name}.mlp.fc1", 4 * WIDTH, WIDTH)
                linear(f"{name}.mlp.fc2", WIDTH, 4 * WIDTH)
    linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    linear("final_layer.linear", 4 * CHANNELS, WIDTH)
    return shapes


def swapped(value):
    """The single file has shift, scale where diffusers has scale, shift."""
    shift, scale = value.chunk(2)
    return torch.cat([scale, shift])


def to_diffusers(single, depth):
    state = {"pos_embed.pos_embed": single["pos_embed"]}
    for kind in ("weight", "bias"):
        renamed = {
            "x_embedder.proj": "pos_embed.proj",
            "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
            "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
            "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
            "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
            "context_embedder": "context_embedder",
            "final_layer.linear": "proj_out",
        }
        for name, new in renamed.items():
            state[f"{new}.{kind}"] = single[f"{name}.{kind}"]
        state[f"norm_out.linear.{kind}"] = swapped(single[f"final_layer.adaLN_modulation.1.{kind}"])
        for i in range(depth):
            old, new = f"joint_blocks.{i}", f"transformer_blocks.{i}"
            last = i == depth - 1
            state[f"{new}.norm1.linear.{kind}"] = single[f"{old}.x_block.adaLN_modulation.1.{kind}"]
            context = single[f"{old}.context_block.adaLN_modulation.1.{kind}"]
            state[f"{new}.norm1_context.linear.{kind}"] = swapped(context) if last else context
            projections = {
                "x_block.attn": ("attn.to_q", "attn.to_k", "attn.to_v"),
                "context_block.attn": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                "x_block.attn2": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            }
            for name, targets in projections.items():
                qkv = single.get(f"{old}.{name}.qkv.{kind}")
                if qkv is not None:
                    for target, part in zip(targets, qkv.chunk(3)):
                        state[f"{new}.{target}.{kind}"] = part
            others = {
                "x_block.attn.proj": "attn.to_out.0",
                "x_block.attn2.proj": "attn2.to_out.0",
                "context_block.attn.proj": "attn.to_add_out",
                "x_block.mlp.fc1": "ff.net.0.proj",
                "x_block.mlp.fc2": "ff.net.2",
                "context_block.mlp.fc1": "ff_context.net.0.proj",
                "context_block.mlp.fc2": "ff_context.net.2",
                "x_block.attn.ln_q": "attn.norm_q",
                "x_block.attn.ln_k": "attn.norm_k",
                "x_block.attn2.ln_q": "attn2.norm_q",
                "x_block.attn2.ln_k": "attn2.norm_k",
                "context_block.attn.ln_q": "attn.norm_added_q",
                "context_block.attn.ln_k": "attn.norm_added_k",
            }
            for name, target in others.items():
                value = single.get(f"{old}.{name}.{kind}")
                if value is not None:
                    state[f"{new}.{target}.{kind}"] = value
    return state


def rolled(positions):
    """A table whose centre crop is the part of the given one that begins at OFFSET."""
    centre = ((GRID - HEIGHT // 2) // 2, (GRID - WIDE // 2) // 2)
    shifts = (centre[0] - OFFSET[0], centre[1] - OFFSET[1])
    return torch.roll(positions.view(1, GRID, GRID, WIDTH), shifts, (1, 2)).reshape(positions.shape)


def configuration(depth, qk_norm, dual, context=CONTEXT, pooled=POOLED):
    return dict(
        sample_size=GRID * 2, patch_size=2, in_channels=CHANNELS, num_layers=depth, attention_head_dim=64,
        num_attention_heads=HEADS, joint_attention_dim=context, caption_projection_dim=WIDTH,
        pooled_projection_dim=pooled, out_channels=CHANNELS, pos_embed_max_size=GRID,
        dual_attention_layers=tuple(dual), qk_norm="rms_norm" if qk_norm else None,
    )


def golden(name, depth, qk_norm, dual):
    shapes, config = single_file_shapes(depth, qk_norm, dual), configuration(depth, qk_norm, dual)
    state = to_diffusers(weights(shapes), depth)
    model = load(SD3Transformer2DModel(**config), state)
    inputs = {
        "latents": uniform("input latents", [2, CHANNELS, HEIGHT, WIDE]),
        "timesteps": torch.tensor([250.5, 999.0]),
        "context": uniform("input context", [2, 7, CONTEXT]),
        "pooled": uniform("input pooled", [2, POOLED]),
    }

    def run():
        return model(
            hidden_states=inputs["latents"], timestep=inputs["timesteps"],
            encoder_hidden_states=inputs["context"], pooled_projections=inputs["pooled"], return_dict=False,
        )[0]

    with torch.no_grad():
        centre = run()
        model.pos_embed.pos_embed.copy_(rolled(state["pos_embed.pos_embed"]))
        offset = run()
    outputs = {"centre": centre, "offset": offset, "gradients": gradients(model, shapes, depth, inputs)}
    save(name, shapes, config | {"offset": OFFSET}, inputs | outputs)


def gradients(model, shapes, depth, inputs):
    """Of each trained single-file tensor by sorted name: its gradient's product with a probe, and its length.

    The loss is the product of the velocity with a fixed tensor."""
    single = {name: value.requires_grad_(name != "pos_embed") for name, value in weights(shapes).items()}
    velocity = torch.func.functional_call(model, to_diffusers(single, depth), (), dict(
        hidden_states=inputs["latents"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"],
        pooled_projections=inputs["pooled"], return_dict=False,
    ))[0]
    (velocity * uniform("input upstream", list(velocity.shape))).sum().backward()
    rows = [
        [(value.grad * uniform(f"probe {name}", shapes[name])).sum(), value.grad.norm()]
        for name, value in sorted(single.items()) if name != "pos_embed"
    ]
    return torch.tensor(rows)


# The three forms: how deep, whether queries and keys are normalised, which blocks have a second attention.
FORMS = {
    "3-medium": dict(depth=2, qk_norm=False, dual=[]),
    "3.5-medium": dict(depth=3, qk_norm=True, dual=[0, 1]),
    "3.5-large": dict(depth=2, qk_norm=True, dual=[]),
}

if __name__ == "__main__":
    for form, arguments in FORMS.items():
        golden(f"mmdit-{form}", **arguments)
