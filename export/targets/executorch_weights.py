"""Weights of an ExecuTorch program stored as 4 or 8-bit integers, as XNNPACK multiplies them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekit.errors import UnsupportedError
from edgekit.quiet import quiet

from ..passes.rewrite_for_xnnpack import rewrite_for_xnnpack
from ..passes.surgery import rename_user_inputs
from ..program import Program
from .base import shorten
from .need import need

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from ...quant.plan import QuantPlan

_ATEN = torch.ops.aten
_SMALLEST_GROUP = 32  # XNNPACK's groups are multiples of it

_NOTE = (
    "XNNPACK has no kernel that multiplies integer weights by floating-point activations: "
    "each row of a linear layer's input is rounded to int8 with a range of its own while running"
)


def quantise_weights(
    program: Program, plan: QuantPlan
) -> tuple[ExportedProgram, dict[str, Any], tuple[str, ...]]:
    """The program with integer weights in its linear layers, ready for XNNPACK's partitioner.

    torchao's ``Int8DynamicActivationIntxWeightConfig`` (8da4w with 4 bits). Its
    ``IntxWeightOnlyConfig`` must not be used: XNNPACK takes its graph and computes other
    numbers without an error (ExecuTorch 1.5.1, torchao 0.18).

    Rules:
        1. With 8 bits a linear layer has a scale per output. With 4 bits it has one per
           ``plan.group_size`` weights of a row, or per largest smaller power of two that
           divides the row; rows that 32 does not divide take 8 bits.
        2. Nodes in ``plan.kept``, convolutions and embeddings keep their weights, bit for bit.
        3. The rewrites for XNNPACK are done: constants must not be folded after this.

    Returns:
        the program; details, under ``weights``: bits, group size, how many layers have how
        many bits; notes for whoever reads the verification.

    Raises:
        UnsupportedError: there is nothing to quantise, or torchao cannot.
        MissingBackendError: torchao is not installed.
    """
    need("torchao", "executorch", "torchao, which quantises for ExecuTorch")
    module = rewrite_for_xnnpack(program.exported).module()
    layers = _as_modules(module, frozenset(plan.kept))
    if not layers:
        raise UnsupportedError(
            "executorch has no weights to quantise",
            "no linear layer that is not kept has a constant weight",
        )
    try:
        with quiet(stderr=True), torch.no_grad():
            counts = _quantise(module, layers, plan)
            shapes = program.dynamic_shapes()
            exported = torch.export.export(
                module, program.example_inputs(), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        raise UnsupportedError(
            "executorch: the weights cannot be quantised",
            f"{type(error).__name__}: {shorten(error)}",
        ) from error
    details = {
        "bits": plan.bits,
        **({"group_size": plan.group_size} if plan.bits == 4 else {}),
        "levels": "symmetric",
        "activations": "int8, by row, while running",
        "layers": counts,
    }
    named = rename_user_inputs(exported, [spec.name for spec in program.inputs])
    return named, {"weights": details}, (_NOTE,)


def _as_modules(module: GraphModule, kept: frozenset[str]) -> dict[str, nn.Linear]:
    """Turn products with stored matrices into modules, which torchao quantises; by path."""
    found: dict[str, nn.Linear] = {}
    for node in list(module.graph.nodes):
        weight, bias = _parts(module, node) if node.name not in kept else (None, None)
        if weight is None:
            continue
        path = f"quantised_{len(found)}"
        found[path] = _linear(weight, bias)
        module.add_submodule(path, found[path])
        with module.graph.inserting_before(node):
            new = module.graph.call_module(path, (node.args[_INPUT.get(node.target, 0)],))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return found


_INPUT = {_ATEN.addmm.default: 1}


def _parts(module: GraphModule, node: Node) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weight (outputs, inputs) and bias of a linear layer; None, None for any other node."""
    if node.op != "call_function":
        return None, None
    tensors = [_stored(module, argument) for argument in node.args]
    weight = bias = None
    if node.target is _ATEN.linear.default:
        weight, bias = tensors[1], tensors[2] if len(tensors) > 2 else None
        if len(node.args) > 2 and node.args[2] is not None and bias is None:
            return None, None  # a bias that is computed
    elif node.target in (_ATEN.mm.default, _ATEN.matmul.default):
        weight = tensors[1].T if tensors[1] is not None and tensors[1].dim() == 2 else None
    elif node.target is _ATEN.addmm.default and not node.kwargs:
        bias, weight = tensors[0], tensors[2].T if tensors[2] is not None else None
        if bias is None or bias.dim() != 1:
            return None, None
    if weight is None or weight.dim() != 2 or weight.dtype is not torch.float32:
        return None, None
    return weight, bias


def _stored(module: GraphModule, argument: object) -> torch.Tensor | None:
    if getattr(argument, "op", None) != "get_attr":
        return None
    value: Any = module
    for part in str(argument.target).split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) else None


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _quantise(module: GraphModule, layers: dict[str, nn.Linear], plan: QuantPlan) -> dict[str, int]:
    """Quantise the layers in place; how many have ``int4`` and how many ``int8`` weights."""
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    counts: dict[str, int] = {}
    for path, layer in layers.items():
        group = math.gcd(layer.in_features, plan.group_size)  # group sizes are powers of two
        four = plan.bits == 4 and group >= _SMALLEST_GROUP
        config = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4 if four else torch.int8,
            weight_granularity=PerGroup(group) if four else PerAxis(0),
            # A search for each scale: torchao's formula clips the largest weights, a tenth
            # more error for the same bytes.
            intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY,
        )
        quantize_(module, config, filter_fn=lambda _, name, path=path: name == path)
        kind = "int4" if four else "int8"
        counts[kind] = counts.get(kind, 0) + 1
    return counts
