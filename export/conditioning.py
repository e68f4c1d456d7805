"""How much a network amplifies rounding: what fp32 can promise for it at all.

Untrained or badly scaled networks can turn the last bit of a sum into the fourth digit of an
output; two correct fp32 kernels then disagree by more than the usual bound. PyTorch's own
distance between fp32 and fp64 on the same samples says how much of that is the network's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgekit.manifest import Metrics
from edgekit.metrics import compare, worst

from ..models.spec import GraphSpec
from ..quant.precision import THRESHOLDS
from .capture import FlatGraph
from .reference import Reference

# How much further from fp64 than PyTorch's fp32 another correct fp32 runtime may be, in
# amplitude. PyTorch with and without oneDNN differ by up to four (measured).
AMPLITUDE = 5.0


def rounding_noise(module: nn.Module, spec: GraphSpec, reference: Reference) -> Metrics | None:
    """How far PyTorch in fp32 is from PyTorch in fp64, at its worst over the samples.

    None where the network does not run in fp64, gives no floating-point outputs, or answers
    differently each time: then the distance is not rounding.
    """
    if not _repeats(FlatGraph(module, spec), reference):
        return None
    network = FlatGraph(copy.deepcopy(module).double(), spec)
    found = []
    for sample, outputs in zip(reference.samples, reference.outputs, strict=True):
        tensors = [torch.from_numpy(array) for array in sample.inputs.values()]
        tensors = [t.double() if t.is_floating_point() else t for t in tensors]
        try:
            with torch.no_grad():
                exact = network(*tensors)
        except (RuntimeError, TypeError, ValueError):
            return None
        found += [
            compare(fp32, fp64.numpy())
            for fp32, fp64 in zip(outputs.values(), exact, strict=True)
            if fp64.is_floating_point()
        ]
    return worst(found) if found else None


def _repeats(network: FlatGraph, reference: Reference) -> bool:
    """Whether the network gives its first reference answer again, to the bit."""
    tensors = [torch.from_numpy(array) for array in reference.samples[0].inputs.values()]
    with torch.no_grad():
        again = network(*tensors)
    return all(
        np.array_equal(array, value.numpy(), equal_nan=array.dtype.kind == "f")
        for array, value in zip(reference.outputs[0].values(), again, strict=True)
    )


def widened(bounds: Mapping[str, float], noise: Metrics) -> dict[str, float]:
    """Bounds that a correct fp32 runtime can keep for a network with this noise.

    Never wider than bf16's own: beyond that, agreement would say nothing.
    """
    most = THRESHOLDS["bf16"]
    return {
        **bounds,
        "nmse": max(bounds["nmse"], min(AMPLITUDE**2 * noise.nmse, most["nmse"])),
        "rel_range": max(bounds["rel_range"], min(AMPLITUDE * noise.rel_range, most["rel_range"])),
        "cosine": min(bounds["cosine"], max(1 - AMPLITUDE**2 * (1 - noise.cosine), most["cosine"])),
    }
