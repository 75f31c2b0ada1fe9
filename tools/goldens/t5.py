"""Golden of the T5 encoder, by transformers' T5EncoderModel."""

import torch
from transformers import T5Config, T5EncoderModel

from formula import load, save, weights

WIDTH, HEADS, HIDDEN, LAYERS, VOCABULARY = 128, 3, 192, 3, 100
INNER = 64 * HEADS


def single_file_shapes(width=WIDTH):
    shapes = {
        "shared.weight": [VOCABULARY, width],
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": [32, HEADS],
    }
    for i in range(LAYERS):
        attention, feed_forward = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        for projection in ("q", "k", "v"):
            shapes[f"{attention}.SelfAttention.{projection}.weight"] = [INNER, width]
        shapes[f"{attention}.SelfAttention.o.weight"] = [width, INNER]
        shapes[f"{attention}.layer_norm.weight"] = [width]
        shapes[f"{feed_forward}.DenseReluDense.wi_0.weight"] = [HIDDEN, width]
        shapes[f"{feed_forward}.DenseReluDense.wi_1.weight"] = [HIDDEN, width]
        shapes[f"{feed_forward}.DenseReluDense.wo.weight"] = [width, HIDDEN]
        shapes[f"{feed_forward}.layer_norm.weight"] = [width]
    shapes["encoder.final_layer_norm.weight"] = [width]
    return shapes


def network(width=WIDTH):
    """The shapes of the single-file weights, the configuration, and the model."""
    shapes = single_file_shapes(width)
    config = dict(
        vocab_size=VOCABULARY, d_model=width, d_kv=64, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS,
        relative_attention_num_buckets=32, relative_attention_max_distance=128, feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    )
    state = weights(shapes)
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    return shapes, config, load(T5EncoderModel(T5Config(**config)), state)


def golden():
    shapes, config, model = network()
    # Long enough for every bucket of the relative positions.
    ids = torch.stack([(torch.arange(140) * 7 + 3) % VOCABULARY, (torch.arange(140) ** 2 + 1) % VOCABULARY])
    output = model(input_ids=ids).last_hidden_state
    save("t5", shapes, config, {"ids": ids.to(torch.int32), "output": output})


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    golden()
