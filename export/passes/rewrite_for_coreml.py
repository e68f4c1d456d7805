"""What coremltools 9 lacks, expressed by what it has."""

from __future__ import annotations

import re
import warnings

import torch
from torch.export import ExportedProgram

from .choose_from_tensors import ChooseFromTensors
from .divide_instead_of_invert import DivideInsteadOfInvert
from .keep_names import mark_names, restore_names
from .read_sizes import ReadSizes
from .select_instead_of_unbind import SelectInsteadOfUnbind
from .slice_instead_of_gather import SliceInsteadOfGather
from .split_before_view import SplitBeforeView
from .surgery import rename_user_inputs, user_inputs
from .upsample_by_scale import UpsampleByScale


def rewrite_for_coreml(program: ExportedProgram) -> ExportedProgram:
    """Decompose the operators that coremltools has no converter for.

    Rules:
        1. An operator that coremltools knows by name stays.
        2. Views of more than five dimensions are avoided (:class:`.SplitBeforeView`).
        3. Maps of dynamic size are enlarged by a factor (:class:`.UpsampleByScale`) and cut
           by a slice (:class:`.SliceInsteadOfGather`); their sizes are read off other maps
           (:class:`.ReadSizes`); parts are taken by index (:class:`.SelectInsteadOfUnbind`).
        4. A choice between numbers is made between tensors (:class:`.ChooseFromTensors`).
        5. A reciprocal is a division (:class:`.DivideInsteadOfInvert`): Core ML's own adds 1e-4.
        6. Nodes keep their names, by which the emitted program's values can be found.
        7. Any other that torch can express in core ATen operators is decomposed; what is
           left after that is reported by the converter, by name.
    """
    program = SelectInsteadOfUnbind()(SplitBeforeView()(mark_names(program)))
    program = ChooseFromTensors()(UpsampleByScale()(program))
    known = _known_operators()
    table = torch.export.default_decompositions()
    unknown = {
        node.target
        for node in program.graph.nodes
        if node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and _name(node.target) not in known
    }
    chosen = {target: table[target] for target in unknown if target in table}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rewritten = program.run_decompositions(chosen)
    # coremltools names the package's inputs after the graph's.
    named = rename_user_inputs(rewritten, user_inputs(program))
    plain = DivideInsteadOfInvert()(ReadSizes()(SliceInsteadOfGather()(named)))
    return restore_names(plain, value_name)


def value_name(node: str) -> str:
    """What the value of a node of the common graph is called in an ML program.

    coremltools numbers helper values of its own like ``add_1``; an ending keeps ours apart.
    """
    return f"{node}_" if re.search(r"_\d+$", node) else node


def _known_operators() -> set[str]:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    return set(_TORCH_OPS_REGISTRY.name_to_func_mapping)


def _name(operator: torch._ops.OpOverload) -> str:
    name = operator._schema.name.split("::")[-1].lower()
    return name.removesuffix("_") if not name.startswith("_") else name
