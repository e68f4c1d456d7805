"""Weights of an ML program stored as integers or in tables: coremltools' own compression."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UnsupportedError

from .base import shorten
from .need import need

if TYPE_CHECKING:
    from ...quant.plan import QuantPlan

_WEIGHTED = ("conv", "conv_transpose", "linear", "matmul", "gather")
_THRESHOLD = 2048  # smaller constants (biases, scales of norms) gain nothing
_SMALLEST_GROUP = 16


def compress(mlmodel: Any, plan: QuantPlan, kept: Sequence[np.ndarray] = ()) -> Any:
    """A package whose weights, those of convolutions and embeddings too, are compressed.

    Core ML decompresses them when it loads the program, or while it multiplies; activations
    stay in floating point. Other constants stay as they are.

    Rules:
        1. ``linear`` with 8 bits: evenly spaced symmetric levels, a scale per output channel.
        2. ``linear`` with 4 bits: a scale per ``plan.group_size`` input channels of each output
           channel, or per largest smaller power of two that divides them; where that would be
           less than 16, a scale per output channel.
        3. ``palettized``: tables of 2**bits values found by k-means, one for each
           ``plan.group_size`` output channels, or for all where that does not divide them.
        4. A constant with the values of one of ``kept``, in whatever order, stays as it is, bit
           for bit.

    Args:
        mlmodel: a ``coremltools.models.MLModel`` of an ML program for iOS 18 or later.
        plan: ``bits``, ``group_size`` and ``weight_format``.
        kept: weights of the network. Values, because coremltools gives constants and results
            names of its own, and makes one of two that are equal.

    Raises:
        UnsupportedError: there is nothing to compress, or coremltools cannot.
        MissingBackendError: what finds the tables is not installed.
    """
    if plan.weight_format == "palettized":
        need("sklearn", "quant", "scikit-learn, whose k-means coremltools uses")
    import coremltools.optimize.coreml as library

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = {
                name: _configure(library, plan, weight.val.shape, weight.child_ops[0].op_type)
                for name, weight in library.get_weights_metadata(mlmodel, _THRESHOLD).items()
                if _is_weight(weight) and not any(_same(weight.val, array) for array in kept)
            }
            config = library.OptimizationConfig(op_name_configs=chosen)
            work = (
                library.palettize_weights
                if plan.weight_format == "palettized"
                else library.linear_quantize_weights
            )
            done = work(mlmodel, config) if chosen else None
    except Exception as error:
        raise UnsupportedError(
            "coreml: the weights cannot be compressed",
            f"{type(error).__name__}: {shorten(error)}",
        ) from error
    if done is None:
        raise UnsupportedError(
            "coreml has no weights to compress",
            f"no layer that is not kept has more than {_THRESHOLD}",
        )
    return done


def _is_weight(constant: Any) -> bool:
    """Whether a matrix is what all that read it multiply with or look up in."""
    readers = constant.child_ops
    return constant.val.ndim > 1 and all(reader.op_type in _WEIGHTED for reader in readers)


def _same(constant: np.ndarray, weight: np.ndarray) -> bool:
    if constant.size != weight.size:
        return False
    own = np.sort(weight.astype(constant.dtype), axis=None)
    return np.array_equal(np.sort(constant, axis=None), own)


def _configure(library: Any, plan: QuantPlan, shape: tuple[int, ...], reader: str) -> Any:
    """How to compress a weight that such an operation reads."""
    # Linear layers and convolutions have their output channels first, these two do not.
    second = reader == "conv_transpose"
    outputs, inputs = (shape[1], shape[0]) if second else (shape[0], shape[1])
    if reader == "matmul":
        outputs = inputs = math.gcd(*shape[-2:])
    if plan.weight_format == "palettized":
        group = plan.group_size
        grouped = outputs % group == 0
        return library.OpPalettizerConfig(
            mode="kmeans",
            nbits=plan.bits,
            granularity="per_grouped_channel" if grouped else "per_tensor",
            **({"group_size": group} if grouped else {}),
            weight_threshold=_THRESHOLD,
        )
    group = math.gcd(inputs, plan.group_size)  # a power of two, as group sizes are
    blocks = plan.bits == 4 and group >= _SMALLEST_GROUP
    return library.OpLinearQuantizerConfig(
        mode="linear_symmetric",
        dtype=f"int{plan.bits}",
        granularity="per_block" if blocks else "per_channel",
        **({"block_size": group} if blocks else {}),
        weight_threshold=_THRESHOLD,
    )
