"""CLIP-L, CLIP-G and T5 in the layouts of their separate files."""

from weights import Tensors, linear, norm, normal

CLIP_LENGTH = 77
RELATIVE_BUCKETS = 32


def clip(encoder: str, width: int, layers: int, vocabulary: int, projection: bool) -> Tensors:
    """A CLIP text encoder. Its name goes into the draws only, so that two encoders differ."""
    tensors = {
        "text_model.embeddings.token_embedding.weight": normal(f"{encoder}.token", (vocabulary, width), 0.7),
        "text_model.embeddings.position_embedding.weight": normal(f"{encoder}.position", (CLIP_LENGTH, width), 0.3),
    }
    named = norm("final_layer_norm", width)
    into_residual = 1 / layers**0.5
    for index in range(layers):
        layer = f"encoder.layers.{index}"
        named |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        for projection_name, gain in [("q", 1.0), ("k", 1.0), ("v", 1.0), ("out", into_residual)]:
            named |= own_linear(encoder, f"{layer}.self_attn.{projection_name}_proj", width, width, gain)
        named |= own_linear(encoder, f"{layer}.mlp.fc1", width, 4 * width)
        named |= own_linear(encoder, f"{layer}.mlp.fc2", 4 * width, width, into_residual)
    tensors |= {f"text_model.{name}": tensor for name, tensor in named.items()}
    if projection:
        tensors["text_projection.weight"] = normal(f"{encoder}.text_projection", (width, width), 1 / width**0.5)
    return tensors


def own_linear(encoder: str, name: str, inputs: int, outputs: int, gain: float = 1.0) -> Tensors:
    drawn = linear(f"{encoder}.{name}", inputs, outputs, gain)
    return {key.removeprefix(f"{encoder}."): tensor for key, tensor in drawn.items()}


def t5(width: int, layers: int, heads: int, head_width: int, hidden: int, vocabulary: int) -> Tensors:
    """A T5 v1.1 encoder."""
    inner = heads * head_width
    into_residual = 1 / layers**0.5
    tensors = {"shared.weight": normal("shared.weight", (vocabulary, width), 1.0)}
    for index in range(layers):
        attention, feed_forward = f"encoder.block.{index}.layer.0", f"encoder.block.{index}.layer.1"
        tensors |= norm(f"{attention}.layer_norm", width, bias=False)
        # T5 does not divide by the root of the head's width, so its queries are that much smaller.
        tensors |= linear(f"{attention}.SelfAttention.q", width, inner, 1 / head_width**0.5, bias=False)
        tensors |= linear(f"{attention}.SelfAttention.k", width, inner, bias=False)
        tensors |= linear(f"{attention}.SelfAttention.v", width, inner, bias=False)
        tensors |= linear(f"{attention}.SelfAttention.o", inner, width, into_residual, bias=False)
        tensors |= norm(f"{feed_forward}.layer_norm", width, bias=False)
        for layer in ("wi_0", "wi_1"):
            tensors |= linear(f"{feed_forward}.DenseReluDense.{layer}", width, hidden, bias=False)
        tensors |= linear(f"{feed_forward}.DenseReluDense.wo", hidden, width, into_residual, bias=False)
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[table] = normal(table, (RELATIVE_BUCKETS, heads), 0.5)
    return tensors | norm("encoder.final_layer_norm", width, bias=False)
