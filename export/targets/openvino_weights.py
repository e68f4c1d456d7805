"""Weights of an OpenVINO model stored as 4 or 8-bit integers: NNCF's weight compression."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgekit.errors import UnsupportedError

from .base import shorten
from .openvino_int8 import kept_names
from .silent_nncf import silent_nncf

if TYPE_CHECKING:
    from ...quant.plan import QuantPlan

_SMALLEST_GROUP = 32

#: For whoever reads the verification.
NOTE = (
    "where it is faster, OpenVINO's CPU plugin rounds the inputs of linear layers with integer "
    "weights to int8, in groups of 32 with a range of their own while running"
)
_TYPES = ("i4", "u4", "i8", "u8", "f32", "f16")


def compress(model: Any, plan: QuantPlan) -> dict[str, Any]:
    """Store the weights of an ``openvino.Model`` as integers, in place.

    Arithmetic is in floating point as far as the plugin wants (see :data:`NOTE`).
    Of layers that share a weight all are kept if one is.

    Rules:
        1. With 8 bits every matrix, convolution and embedding is stored symmetrically with a
           scale per output.
        2. With 4 bits linear layers and embeddings have a scale per ``plan.group_size``
           weights of a row, or per largest smaller power of two that divides the row. Rows
           that 32 does not divide, and convolutions, take 8 bits.
        3. What computes a value in ``plan.kept`` keeps its weights, bit for bit.

    Args:
        model: an ``openvino.Model`` in fp32.
        plan: ``kept`` as the model calls the values.

    Returns:
        details, under ``weights``: bits, group size, how many matrices have which type.

    Raises:
        UnsupportedError: there is nothing to quantise, or NNCF cannot.
        MissingBackendError: NNCF is not installed.
    """
    ignored = sorted({name for node in plan.kept for name in _operations(model, node)})
    with silent_nncf() as nncf:
        try:
            nncf.compress_weights(
                model,
                ignored_scope=nncf.IgnoredScope(names=ignored),
                **_options(nncf, plan),
            )
        except Exception as error:
            raise UnsupportedError(
                "openvino: the weights cannot be compressed",
                f"{type(error).__name__}: {shorten(error)}",
            ) from error
    matrices = _matrices(model)
    if not any(kind.strip("iu").isdigit() for kind in matrices):
        raise UnsupportedError(
            "openvino has no weights to quantise", "no layer that is not kept has a constant matrix"
        )
    return {
        "weights": {
            "bits": plan.bits,
            **({"group_size": plan.group_size} if plan.bits == 4 else {}),
            "levels": "symmetric",
            "matrices": matrices,
        }
    }


def _options(nncf: Any, plan: QuantPlan) -> dict[str, Any]:
    if plan.bits == 8:
        return {"mode": nncf.CompressWeightsMode.INT8_SYM}
    return {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": plan.group_size,
        "all_layers": True,  # also embeddings and the last layer, which NNCF would keep in 8 bits
        "backup_mode": nncf.BackupMode.INT8_SYM,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST,
            min_adjusted_group_size=_SMALLEST_GROUP,
        ),
    }


def _operations(model: Any, node: str) -> set[str]:
    """Friendly names of what multiplies with, or looks up in, the weights of a common node.

    NNCF leaves a constant alone if all that read it are ignored.
    """
    operations = model.get_ordered_ops()
    gathers = {
        op.get_friendly_name()
        for op in operations
        if op.get_type_name() == "Gather" and any(node in port.names for port in op.outputs())
    }
    found = gathers or set(kept_names(model, [node]))
    sharing = {
        port.get_node().get_friendly_name()
        for op in operations
        if op.get_friendly_name() in found
        for source in op.input_values()
        if source.get_node().get_type_name() == "Constant"
        for port in source.get_target_inputs()
    }
    return found | sharing


def _matrices(model: Any) -> dict[str, int]:
    """How many constants of two dimensions or more are stored in which type."""
    counts: Counter[str] = Counter()
    for op in model.get_ordered_ops():
        if op.get_type_name() == "Constant":
            kind = op.get_element_type().get_type_name()
            large = sum(size > 1 for size in op.get_output_shape(0)) > 1
            if large and kind in _TYPES and not _is_scale(op):
                counts[kind] += 1
    return dict(counts.most_common())


def _is_scale(constant: Any) -> bool:
    """Whether a constant multiplies others that are integers."""
    for port in constant.output(0).get_target_inputs():
        reader = port.get_node()
        if reader.get_type_name() == "Multiply":
            first = reader.input_value(0).get_node()
            return first.get_type_name() in ("Convert", "Subtract") and first is not constant
    return False
