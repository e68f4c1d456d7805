"""int8 for ONNX: quantise and dequantise nodes around what has weights, by ONNX Runtime's tools."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from edgekit.errors import UnsupportedError
from edgekit.quiet import quiet

from ...quant.plan import PERCENTILE, Arrays, QuantPlan
from .base import shorten
from .need import need
from .onnx_files import save_onnx

if TYPE_CHECKING:
    import onnx_ir

# With weights: these are what int8 is for.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Without: taken along, because a value between two integer layers may then stay an integer.
# Not softmax and the norms: they cost accuracy, and their kernels are in floating point anyway.
_CARRIED = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
_BINS = 2048  # of a histogram; ONNX Runtime's own 128 never clip anything
_CHUNK = 2  # samples whose intermediate values are in memory at a time

# Ranges do not depend on which layers are kept: the same samples are shown once.
_ranges: WeakKeyDictionary[onnx_ir.Model, dict[tuple, Any]] = WeakKeyDictionary()


def quantise(model: onnx_ir.Model, plan: QuantPlan, symmetric: bool = False) -> onnx_ir.Model:
    """The model in int8: weights signed and per channel, activations per tensor.

    Activations are unsigned, which is what x86 multiplies with signed weights; ``symmetric``
    makes them signed with zero in the middle and leaves biases alone, as TensorRT wants it.

    Args:
        plan: ``static`` or ``dynamic``; a kept layer stays in floating point, and so does
            what consumes it (an addition, a clamp).

    Raises:
        UnsupportedError: ONNX Runtime's tools refuse the graph.
    """
    need("onnx", "export", "the ONNX exporter")
    kept = [*kept_nodes(model, plan.kept), *_with_constants(model)]
    with tempfile.TemporaryDirectory(prefix="edgekit-int8-") as folder, quiet(stdout=True):
        source, result = Path(folder) / "model.onnx", Path(folder) / "quantised.onnx"
        save_onnx(model, source)
        try:
            if plan.scheme == "dynamic":
                _dynamic(source, result, kept)
            else:
                ranges = _calibrated(model, source, plan, symmetric)
                _static(source, result, kept, ranges, symmetric)
        except Exception as error:
            raise UnsupportedError(
                "onnx: the graph cannot be quantised", f"{type(error).__name__}: {shorten(error)}"
            ) from error
        return _read(result)


def kept_nodes(model: onnx_ir.Model, layers: Sequence[str]) -> list[str]:
    """Names of the ONNX nodes that these nodes of the common graph became, of those that multiply
    with their weights, and of the nodes without weights that consume them."""
    found: dict[str, None] = {}
    producers = {value.name: node for node in model.graph for value in node.outputs}
    for name in layers:
        if name in producers:
            found[producers[name].name] = None
        node = _weighted_node(producers, name)
        if node is None:
            continue
        found[node.name] = None
        readers = {use.node for value in node.outputs for use in value.uses()}
        found.update(dict.fromkeys(reader.name for reader in readers if reader.op_type in _CARRIED))
    return list(found)


def _with_constants(model: onnx_ir.Model) -> list[str]:
    """Sums and products with a stored number: rounding it gains nothing, and TensorRT takes no
    integer constant there."""
    return [
        node.name
        for node in model.graph
        if node.op_type in ("Add", "Mul")
        and any(value is not None and value.const_value is not None for value in node.inputs)
    ]


def _weighted_node(producers: Mapping[str, Any], layer: str) -> Any:
    """The node that multiplies with the weight of a layer: a linear one may be a product, an
    addition and reshapes, of which the last has the layer's name."""
    node = producers.get(layer)
    while node is not None and node.op_type not in _WEIGHTED:
        node = next((v.producer() for v in node.inputs if v is not None and v.producer()), None)
    return node


def _static(source: Path, result: Path, kept: list[str], ranges: Any, symmetric: bool) -> None:
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantType, load_model_with_shape_infer

    quantizer = QDQQuantizer(
        load_model_with_shape_infer(source),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=kept,
        op_types_to_quantize=list(_WEIGHTED + _CARRIED),
        extra_options={
            # A product of two activations is attention: it has no weight to make smaller.
            "MatMulConstBOnly": True,
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not symmetric,
        },
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(result), False)


def _dynamic(source: Path, result: Path, kept: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        result,
        op_types_to_quantize=["Gemm", "MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept,
        extra_options={"MatMulConstBOnly": True},
    )


def _calibrated(model: onnx_ir.Model, source: Path, plan: QuantPlan, symmetric: bool) -> Any:
    key = (plan.method, symmetric, id(plan.samples))
    known = _ranges.setdefault(model, {})
    if key not in known:
        known[key] = _calibrate(source, plan, symmetric)
    return known[key]


def _calibrate(source: Path, plan: QuantPlan, symmetric: bool) -> Any:
    """The range of every value, as ONNX Runtime's calibrators find it."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    method, options = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (
            CalibrationMethod.Percentile,
            {"num_bins": _BINS, "percentile": PERCENTILE},
        ),
        "entropy": (
            CalibrationMethod.Entropy,
            {"num_bins": _BINS, "num_quantized_bins": 128 if symmetric else 256},
        ),
    }[plan.method]
    calibrator = create_calibrator(
        source,
        [*_WEIGHTED, *_CARRIED],
        augmented_model_path=str(source.with_name("augmented.onnx")),
        calibrate_method=method,
        providers=["CPUExecutionProvider"],
        extra_options={**options, "symmetric": symmetric},
    )
    for start in range(0, len(plan.samples), _CHUNK):
        calibrator.collect_data(_Reader(plan.samples[start : start + _CHUNK]))
    return calibrator.compute_data()


class _Reader:
    """Samples as ONNX Runtime's calibrators take them."""

    def __init__(self, samples: Sequence[Arrays]) -> None:
        self._rest = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        sample = next(self._rest, None)
        return None if sample is None else dict(sample)


def _read(path: Path) -> onnx_ir.Model:
    """The model in memory, without what the tools noted of themselves."""
    import onnx_ir as ir

    model = ir.load(path)
    ir.external_data.load_to_model(model)
    model.producer_name, model.producer_version = "edgekit", None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    return model
