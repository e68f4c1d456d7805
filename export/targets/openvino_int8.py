"""int8 for OpenVINO: NNCF's post-training quantisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.errors import UnsupportedError

from ...quant.plan import PERCENTILE, QuantPlan
from .base import shorten
from .silent_nncf import silent_nncf

_WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
_ATTENTION = "Softmax"


def quantise(model: Any, plan: QuantPlan) -> tuple[Any, tuple[str, ...]]:
    """The ``openvino.Model`` with FakeQuantize nodes, which its CPU plugin turns into int8.

    A graph with softmax is quantised as a transformer: attention's products stay apart, and
    outliers are smoothed into the weights before it.

    Returns:
        the quantised model, and what a reader should know of how.

    Raises:
        UnsupportedError: NNCF refuses the graph.
    """
    with silent_nncf() as nncf:
        attention = any(op.get_type_name() == _ATTENTION for op in model.get_ordered_ops())
        try:
            quantised = nncf.quantize(
                model,
                nncf.Dataset([dict(sample) for sample in plan.samples]),
                subset_size=len(plan.samples),
                model_type=nncf.ModelType.TRANSFORMER if attention else None,
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=kept_names(model, plan.kept)),
                advanced_parameters=_parameters(plan.method),
            )
        except Exception as error:
            raise UnsupportedError(
                "openvino: the graph cannot be quantised",
                f"{type(error).__name__}: {shorten(error)}",
            ) from error
    notes = ()
    if plan.method == "entropy":
        notes = ("NNCF has no entropy: ranges minimise the squared error over a histogram",)
    return quantised, notes


def kept_names(model: Any, layers: Sequence[str]) -> list[str]:
    """Friendly names of the operations that these nodes became, and of those that multiply with
    their weights."""
    producers = {
        name: op for op in model.get_ordered_ops() for port in op.outputs() for name in port.names
    }
    found: dict[str, None] = {}
    for layer in layers:
        op = producers.get(layer)
        if op is not None:
            found[op.get_friendly_name()] = None
        while op is not None and op.get_type_name() not in _WEIGHTED:
            op = op.input_value(0).get_node() if op.get_input_size() else None
        if op is not None:
            found[op.get_friendly_name()] = None
    return list(found)


def _parameters(method: str) -> Any:
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if method == "minmax":
        estimator = RangeEstimatorParametersSet.MINMAX
    elif method == "entropy":
        estimator = RangeEstimatorParametersSet.HISTOGRAM
    else:
        side = StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=1 - PERCENTILE / 100,
        )
        estimator = RangeEstimatorParameters(min=side, max=side)
    return AdvancedQuantizationParameters(
        activations_range_estimator_params=estimator,
        # Its default gives the inputs of depthwise convolutions a range per channel: a channel
        # that slept through the calibration is then cut off when a picture wakes it.
        activations_quantization_params=QuantizationParameters(per_channel=False),
        # Weights are on their grid and biases corrected before any target (see round_weights).
        disable_bias_correction=True,
        overflow_fix=OverflowFix.DISABLE,
    )
