"""CLIP and T5 at any size; parameters are named as in their separate files."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP_LENGTH = 77
HEAD_WIDTH = 64
BUCKETS = 32


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class ClipAttention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = [nn.Linear(width, width) for _ in range(4)]
        self.heads = width // HEAD_WIDTH

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = [heads(part(x), self.heads) for part in (self.q_proj, self.k_proj, self.v_proj)]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class ClipFeedForward(nn.Module):
    def __init__(self, width: int, quick: bool):
        super().__init__()
        self.fc1, self.fc2, self.quick = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), quick

    def forward(self, x: Tensor) -> Tensor:
        inner = self.fc1(x)
        return self.fc2(inner * torch.sigmoid(1.702 * inner) if self.quick else F.gelu(inner))


class ClipLayer(nn.Module):
    def __init__(self, width: int, quick: bool):
        super().__init__()
        self.layer_norm1, self.self_attn = nn.LayerNorm(width, eps=1e-5), ClipAttention(width)
        self.layer_norm2, self.mlp = nn.LayerNorm(width, eps=1e-5), ClipFeedForward(width, quick)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipText(nn.Module):
    def __init__(self, width: int, layers: int, vocabulary: int, quick: bool):
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {"token_embedding": nn.Embedding(vocabulary, width), "position_embedding": nn.Embedding(CLIP_LENGTH, width)}
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(ClipLayer(width, quick) for _ in range(layers))})
        self.final_layer_norm = nn.LayerNorm(width, eps=1e-5)


class Clip(nn.Module):
    """`quick` is CLIP-L's activation, without it CLIP-G's. CLIP-L has no projection of its pooled vector."""

    def __init__(self, width: int, layers: int, vocabulary: int, quick: bool, projection: bool):
        super().__init__()
        self.text_model = ClipText(width, layers, vocabulary, quick)
        if projection:
            self.text_projection = nn.Linear(width, width, bias=False)
        for table in self.text_model.embeddings.values():
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The states before the last layer, [B, 77, width], and the pooled vector, [B, width]."""
        model = self.text_model
        x = model.embeddings["token_embedding"](ids) + model.embeddings["position_embedding"].weight
        before = x
        for layer in model.encoder["layers"]:
            before, x = x, layer(x)
        # The first of the largest ids is the end of the text.
        ends = x.gather(1, ids.argmax(1)[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
        pooled = model.final_layer_norm(ends)
        return before, self.text_projection(pooled) if hasattr(self, "text_projection") else pooled


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class T5Attention(nn.Module):
    def __init__(self, width: int, count: int, first: bool):
        super().__init__()
        inner = count * HEAD_WIDTH
        self.q, self.k, self.v = [nn.Linear(width, inner, bias=False) for _ in range(3)]
        self.o = nn.Linear(inner, width, bias=False)
        self.heads = count
        if first:
            self.relative_attention_bias = nn.Embedding(BUCKETS, count)
            nn.init.normal_(self.relative_attention_bias.weight, std=0.3)
        # Nothing divides by the root of the head's width here, so the queries begin that much smaller.
        nn.init.normal_(self.q.weight, std=(width * HEAD_WIDTH) ** -0.5)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = [heads(part(x), self.heads) for part in (self.q, self.k, self.v)]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        return self.o(attended.transpose(1, 2).flatten(2))


class T5FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.wi_0, self.wi_1 = [nn.Linear(width, hidden, bias=False) for _ in range(2)]
        self.wo = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5Block(nn.Module):
    def __init__(self, width: int, count: int, hidden: int, first: bool):
        super().__init__()
        attention = {"SelfAttention": T5Attention(width, count, first), "layer_norm": RmsNorm(width)}
        feed_forward = {"DenseReluDense": T5FeedForward(width, hidden), "layer_norm": RmsNorm(width)}
        self.layer = nn.ModuleList([nn.ModuleDict(attention), nn.ModuleDict(feed_forward)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        x = x + attention["SelfAttention"](attention["layer_norm"](x), bias)
        return x + feed_forward["DenseReluDense"](feed_forward["layer_norm"](x))


class T5(nn.Module):
    """The encoder of T5 v1.1."""

    def __init__(self, width: int, layers: int, count: int, hidden: int, vocabulary: int, length: int):
        super().__init__()
        self.register_buffer("buckets", buckets(length), persistent=False)
        self.shared = nn.Embedding(vocabulary, width)
        blocks = nn.ModuleList(T5Block(width, count, hidden, index == 0) for index in range(layers))
        self.encoder = nn.ModuleDict({"block": blocks, "final_layer_norm": RmsNorm(width)})

    def forward(self, ids: Tensor) -> Tensor:
        """[B, length, width]."""
        x = self.shared(ids)
        first = self.encoder["block"][0].layer[0]["SelfAttention"]
        bias = first.relative_attention_bias(self.buckets).permute(2, 0, 1)[None]
        for block in self.encoder["block"]:
            x = block(x, bias)
        return self.encoder["final_layer_norm"](x)


def buckets(length: int) -> Tensor:
    """The bucket of each key (columns) as seen from each query (rows), as in `_relative_position_bucket`."""

    def bucket(distance: int) -> int:
        side, steps = (BUCKETS // 2 if distance > 0 else 0), abs(distance)
        return side + (steps if steps < 8 else min(15, 8 + int(math.log(steps / 8) / math.log(16) * 8 + 1e-9)))

    return torch.tensor([[bucket(key - query) for key in range(length)] for query in range(length)])
