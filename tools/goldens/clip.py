"""Goldens of the CLIP text encoders, by transformers' CLIPTextModelWithProjection."""

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from formula import load, save, weights

WIDTH, HIDDEN, LAYERS, VOCABULARY, POSITIONS, END = 128, 320, 3, 100, 12, 99


def single_file_shapes(projected, vocabulary=VOCABULARY, positions=POSITIONS):
    shapes = {
        "text_model.embeddings.token_embedding.weight": [vocabulary, WIDTH],
        "text_model.embeddings.position_embedding.weight": [positions, WIDTH],
    }

    def layer(name, outputs, *inputs):
        shapes[f"{name}.weight"] = [outputs, *inputs]
        shapes[f"{name}.bias"] = [outputs]

    for i in range(LAYERS):
        name = f"text_model.encoder.layers.{i}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layer(f"{name}.self_attn.{projection}", WIDTH, WIDTH)
        layer(f"{name}.layer_norm1", WIDTH)
        layer(f"{name}.layer_norm2", WIDTH)
        layer(f"{name}.mlp.fc1", HIDDEN, WIDTH)
        layer(f"{name}.mlp.fc2", WIDTH, HIDDEN)
    layer("text_model.final_layer_norm", WIDTH)
    if projected:
        shapes["text_projection.weight"] = [WIDTH, WIDTH]
    return shapes


def network(activation, projected, vocabulary=VOCABULARY, positions=POSITIONS):
    """The shapes of the single-file weights, the configuration, and the model."""
    shapes = single_file_shapes(projected, vocabulary, positions)
    # An end token of 2 is what the released files say; it makes transformers look for the largest id instead.
    config = dict(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=positions, hidden_act=activation, layer_norm_eps=1e-5,
        projection_dim=WIDTH, bos_token_id=98, eos_token_id=2, attn_implementation="eager",
    )
    state = weights(shapes)
    if not projected:
        state["text_projection.weight"] = torch.eye(WIDTH)
    return shapes, config, load(CLIPTextModelWithProjection(CLIPTextConfig(**config)), state)


def golden(name, activation, projected, padding):
    shapes, config, model = network(activation, projected)
    texts = [[98, 5, 17, 42, END], [98, 3, 3, 77, 60, 1, 29, END]]
    ids = torch.tensor([text + [padding] * (10 - len(text)) for text in texts])
    seen = []
    layers = [module for path, module in model.named_modules() if path.endswith(f"encoder.layers.{LAYERS - 2}")]
    layers[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    output = model(input_ids=ids, output_hidden_states=True)
    penultimate = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(penultimate, output.hidden_states[-2])
    save(name, shapes, config, {
        "ids": ids.to(torch.int32),
        "penultimate": penultimate,
        "pooled": output.text_embeds,
    })


def goldens():
    golden("clip-l", "quick_gelu", projected=False, padding=END)
    golden("clip-g", "gelu", projected=True, padding=0)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    goldens()
