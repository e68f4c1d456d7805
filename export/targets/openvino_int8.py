"""int8 for OpenVINO: NNCF's post-training quantisation."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from edgekit.errors import UnsupportedError

from ...quant.plan import PERCENTILE, QuantPlan
from .base import shorten
from .need import need

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
    need("nncf", "quant", "NNCF, which quantises for OpenVINO")
    with _quiet():
        import nncf

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
    """Friendly names of the operations that multiply with the weights of these nodes."""
    producers = {
        name: op for op in model.get_ordered_ops() for port in op.outputs() for name in port.names
    }
    found: dict[str, None] = {}
    for layer in layers:
        op = producers.get(layer)
        while op is not None and op.get_type_name() not in _WEIGHTED:
            op = op.input_value(0).get_node() if op.get_input_size() else None
        if op is not None:
            found[op.get_friendly_name()] = None
    return list(found)


def _parameters(method: str) -> Any:
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
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
        # Weights are on their grid and biases corrected before any target (see round_weights).
        disable_bias_correction=True,
        overflow_fix=OverflowFix.DISABLE,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # NNCF logs to handlers of its own and draws rich progress bars on stdout.
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
