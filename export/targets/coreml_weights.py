"""Weights of an ML program stored as integers or in tables: coremltools' own compression."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import UnsupportedError

from ..passes.rewrite_for_coreml import value_name
from .base import shorten
from .need import need

if TYPE_CHECKING:
    from ...quant.plan import QuantPlan

_WEIGHTED = ("conv", "conv_transpose", "linear", "matmul", "gather")
_THRESHOLD = 2048  # smaller constants (biases, scales of norms) gain nothing
_SMALLEST_GROUP = 16
_CAST = "_cast_fp16"  # what coremltools adds to the names of values in an fp16 program


def compress(mlmodel: Any, plan: QuantPlan) -> Any:
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
        4. The weights of a value in ``plan.kept`` stay as they are, bit for bit, and so they do
           for whoever shares them.

    Args:
        mlmodel: a ``coremltools.models.MLModel`` of an ML program for iOS 18 or later.
        plan: ``kept`` as the common graph calls the values, or as the program's outputs are
            called.

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
                name: _configure(library, plan, weight)
                for name, weight in _weights(mlmodel.get_spec()).items()
                if not _is_kept(weight, plan)
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


@dataclass(frozen=True)
class _Weight:
    """A constant matrix: its shape, the kind of operation that reads it, and what those that
    do give."""

    shape: tuple[int, ...]
    reader: str
    results: tuple[str, ...]


def _weights(spec: Any) -> dict[str, _Weight]:
    """The large constants that only layers read, by name.

    Read off the specification: operations that coremltools loads from it are numbered anew.
    """
    operations = [
        operation
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
    ]
    readers: dict[str, list[Any]] = {}
    for operation in operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                readers.setdefault(binding.name, []).append(operation)
    found = {}
    for operation in operations:
        if operation.type != "const":
            continue
        (output,) = operation.outputs
        shape = _shape(output)
        reading = readers.get(output.name, [])
        if math.prod(shape) > _THRESHOLD and len(shape) > 1 and _are_layers(reading):
            results = tuple(value.name for each in reading for value in each.outputs)
            found[output.name] = _Weight(shape, reading[0].type, results)
    return found


def _shape(output: Any) -> tuple[int, ...]:
    return tuple(size.constant.size for size in output.type.tensorType.dimensions)


def _are_layers(readers: list[Any]) -> bool:
    return bool(readers) and all(reader.type in _WEIGHTED for reader in readers)


def _is_kept(weight: _Weight, plan: QuantPlan) -> bool:
    names = {*plan.kept, *map(value_name, plan.kept)}
    return any(result.removesuffix(_CAST) in names for result in weight.results)


def _configure(library: Any, plan: QuantPlan, weight: _Weight) -> Any:
    """How to compress a weight."""
    shape = weight.shape
    # Linear layers and convolutions have their output channels first, these two do not.
    second = weight.reader == "conv_transpose"
    outputs, inputs = (shape[1], shape[0]) if second else (shape[0], shape[1])
    if weight.reader == "matmul":
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
