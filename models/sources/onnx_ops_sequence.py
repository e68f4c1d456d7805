"""ONNX operators over sequences: recurrent layers and attention.

Semantics: the ONNX operator specification: LSTM and GRU of opset 7 to 22, Attention and
RotaryEmbedding of opset 23.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .onnx_ops import Node, literal, operator

# --- recurrent layers --------------------------------------------------------------------

# The gates' order in ONNX's matrices, as places in torch's order.
# LSTM: ONNX input, output, forget, cell; torch input, forget, cell, output.
# GRU: ONNX update, reset, hidden; torch reset, update, hidden.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


def reordered(weight: Tensor, op: str) -> Tensor:
    """Rows (gates · hidden, …) in torch's order of gates."""
    gates = weight.chunk(len(GATES[op]), 0)
    return torch.cat([gates[i] for i in GATES[op]], 0)


def torch_weights(node: Node, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """Weights as torch.lstm and torch.gru take them, direction after direction."""
    weights: list[Tensor] = []
    for d in range(w.shape[0]):
        weights += [reordered(w[d], node.op), reordered(r[d], node.op)]
        if b is not None:
            weights += [reordered(half, node.op) for half in b[d].chunk(2, 0)]
    return weights


def check_recurrent(node: Node, lengths: np.ndarray | None, x: Tensor, peephole: object) -> None:
    """Raise what torch's recurrent layers cannot express."""
    activations = [name.lower() for name in node.get("activations") or []]
    count = 2 if node.get("direction") == "bidirectional" else 1
    if activations and activations != USUAL[node.op] * count:
        raise node.refuse("its activations are not sigmoid and tanh")
    if node.get("clip") is not None or node.get("input_forget", 0) or peephole is not None:
        raise node.refuse("it uses clip, input_forget or peepholes")
    if node.op == "GRU" and not node.get("linear_before_reset", 0):
        raise node.refuse("torch has no GRU with linear_before_reset = 0")
    steps = x.shape[1 if node.get("layout", 0) else 0]
    if lengths is not None and any(n != steps for n in lengths.tolist()):
        raise node.refuse("it has sequences of different lengths")


def run_recurrent(
    node: Node, x: Tensor, weights: list[Tensor], states: list[Tensor | None], hidden: int
) -> tuple[Tensor, ...]:
    """Run torch's layer over x (steps, batch, features); outputs in ONNX's layout 0."""
    both = node.get("direction", "forward") == "bidirectional"
    backward = node.get("direction", "forward") == "reverse"
    x = x.flip(0) if backward else x
    directions = 2 if both else 1
    zeros = torch.zeros(directions, x.shape[1], hidden, dtype=x.dtype)
    initial = [zeros if s is None else s for s in states]
    has_bias = len(weights) == 4 * directions
    options = (has_bias, 1, 0.0, False, both, False)
    if node.op == "LSTM":
        y, *last = torch.lstm(x, initial, weights, *options)
    else:
        y, *last = torch.gru(x, initial[0], weights, *options)
    y = y.reshape(x.shape[0], x.shape[1], directions, hidden).transpose(1, 2)
    return (y.flip(0) if backward else y, *last)


@operator("LSTM", host=(4,))
def lstm(
    node: Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: np.ndarray | None = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
    peephole: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return recurrent(node, x, (w, r, b), lengths, [h, c], peephole)


@operator("GRU", host=(4,))
def gru(
    node: Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: np.ndarray | None = None,
    h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return recurrent(node, x, (w, r, b), lengths, [h], None)


def recurrent(
    node: Node,
    x: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor | None],
    lengths: np.ndarray | None,
    states: list[Tensor | None],
    peephole: Tensor | None,
) -> tuple[Tensor, ...]:
    """A recurrent layer; with ``layout`` 1 the batch comes first in all tensors."""
    check_recurrent(node, lengths, x, peephole)
    hidden = parameters[1].shape[-1]
    weights = torch_weights(node, *parameters)
    if not node.get("layout", 0):
        return run_recurrent(node, x, weights, states, hidden)
    turned = [None if s is None else s.transpose(0, 1) for s in states]
    y, *last = run_recurrent(node, x.transpose(0, 1), weights, turned, hidden)
    return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in last)


# --- attention ---------------------------------------------------------------------------


def split_heads(x: Tensor, heads: int | None) -> Tensor:
    """(batch, steps, heads · size) to (batch, heads, steps, size); rank 4 is left alone."""
    if x.ndim == 4:
        return x
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def attention_bias(node: Node, mask: Tensor | None, steps: int, keys: int) -> Tensor | None:
    """The mask, joined with the causal one (query i sees keys up to i) where asked for."""
    if not node.get("is_causal", 0):
        return mask
    causal = literal(np.tril(np.ones((steps, keys), dtype=bool)))
    if mask is None:
        return causal
    if mask.dtype == torch.bool:
        return torch.logical_and(mask, causal)
    return mask.masked_fill(~causal, -torch.inf)


@operator("Attention")
def attention(
    node: Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    if node.get("softcap", 0.0) or node.wants(3):
        raise node.refuse("it uses softcap or asks for the product of queries and keys")
    merged = q.ndim == 3
    q = split_heads(q, node.get("q_num_heads"))
    k, v = (split_heads(t, node.get("kv_num_heads")) for t in (k, v))
    if past_key is not None and past_value is not None:
        if node.get("is_causal", 0):
            raise node.refuse("it is causal over a cache")
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    groups = q.shape[1] // k.shape[1]
    keys, values = (t if groups == 1 else t.repeat_interleave(groups, 1) for t in (k, v))
    bias = attention_bias(node, mask, q.shape[2], keys.shape[2])
    result = F.scaled_dot_product_attention(q, keys, values, bias, scale=node.get("scale"))
    if merged:
        result = result.transpose(1, 2).flatten(2)
    return (result, k, v) if node.wants(1) or node.wants(2) else result


@operator("RotaryEmbedding")
def rotary_embedding(
    node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Rotate pairs of features: (first half, second half), or neighbours if interleaved."""
    merged = x.ndim == 3
    x = split_heads(x, node.get("num_heads"))
    if positions is not None:
        cos, sin = F.embedding(positions, cos), F.embedding(positions, sin)
    size = node.get("rotary_embedding_dim", 0) or x.shape[-1]
    half = size // 2
    cos, sin = cos[..., :half].unsqueeze(1), sin[..., :half].unsqueeze(1)
    turned, rest = x[..., :size], x[..., size:]
    interleaved = node.get("interleaved", 0)
    a = turned[..., 0::2] if interleaved else turned[..., :half]
    b = turned[..., 1::2] if interleaved else turned[..., half:]
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        turned = torch.cat([real, imaginary], -1)
    result = turned if size == x.shape[-1] else torch.cat([turned, rest], -1)
    return result.transpose(1, 2).flatten(2) if merged else result
