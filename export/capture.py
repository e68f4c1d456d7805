"""From a network to the common graph: ``nn.Module`` -> ``torch.export.ExportedProgram``.

Whatever the network's signature, the captured graph takes flat tensors and gives flat
tensors, so that no target has to know about keyword arguments, dictionaries or dataclasses.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as symbolic
from torch.utils import _pytree as pytree

from edgekit.errors import EdgekitError, UnsupportedError, UsageError
from edgekit.manifest import AxisRange, TensorSpec
from edgekit.quiet import quiet

from ..models.spec import GraphSpec, LoadedModel
from .passes.surgery import rename_user_inputs
from .program import Program
from .samples import example_inputs

# A dimension of size 0 or 1 is specialised by torch.export: dynamic axes are traced at 2 or more.
SMALLEST_TRACED = 2

DynamicAxes = Mapping[str, Mapping[int, tuple[int, int]]]


class FlatGraph(nn.Module):
    """Calls one method of a network with flat tensors and returns flat tensors.

    Its ``forward`` takes the graph's inputs in order and returns, as a tuple, the tensors
    among what the network returns.
    """

    def __init__(self, model: nn.Module, graph: GraphSpec) -> None:
        super().__init__()
        self.model = model
        self._method = graph.method
        self._names = [spec.name for spec in graph.inputs]
        parameters = inspect.signature(getattr(model, graph.method)).parameters
        self._by_keyword = set(self._names) <= set(parameters)
        # torch.export names the graph's inputs after the parameters of `forward`.
        self.forward = _with_parameters(self._flat, [identifier(name) for name in self._names])

    def call(self, *tensors: torch.Tensor) -> Any:
        """What the network itself returns."""
        method = self.model if self._method == "forward" else getattr(self.model, self._method)
        structure = getattr(self.model, "_in_spec", None)
        if isinstance(self.model, torch.fx.GraphModule) and structure is not None:
            # A saved program takes its inputs as it was captured with them, keywords or not.
            args, kwargs = pytree.tree_unflatten(tensors, structure)
            return method(*args, **kwargs)
        if self._by_keyword:
            return method(**dict(zip(self._names, tensors, strict=True)))
        return method(*tensors)

    def _flat(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = pytree.tree_leaves(_plain(self.call(*tensors)))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


def _with_parameters(
    function: Callable[..., tuple[torch.Tensor, ...]], names: Sequence[str]
) -> Callable[..., tuple[torch.Tensor, ...]]:
    def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return function(*tensors)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return forward


def _plain(value: Any) -> Any:
    # transformers' ModelOutput is an OrderedDict that pytree knows only while transformers
    # is imported; as a plain dictionary it flattens the same way everywhere.
    return dict(value) if isinstance(value, Mapping) else value


def identifier(name: str) -> str:
    """``name`` as every runtime accepts it: letters, digits and underscores."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII)
    if keyword.iskeyword(clean):
        return f"{clean}_"
    return clean if clean and not clean[0].isdigit() else f"_{clean}"


def capture(model: LoadedModel, graph: GraphSpec, dynamic: DynamicAxes | None = None) -> Program:
    """Capture one graph of a model.

    Args:
        model: the network and where it came from.
        graph: the inputs' names, dtypes and example shapes, and the outputs' names.
        dynamic: per input, the axes that stay dynamic with their smallest and largest
            size; None takes the graph's own.

    Raises:
        UsageError: a dynamic axis does not exist, or the network does not take the inputs.
        UnsupportedError: torch.export cannot capture the network.
    """
    assert_axes_exist(graph, dynamic or {})
    axes = graph.dynamic if dynamic is None else dynamic
    _assert_distinct("inputs", [spec.name for spec in graph.inputs])
    flat = FlatGraph(model.module, graph)
    flat.training = False  # not .eval(), which a network from a .pt2 file refuses
    example = example_inputs(model.task, graph.inputs, axes, SMALLEST_TRACED)
    tensors = tuple(torch.from_numpy(array) for array in example.values())
    with torch.no_grad():
        result = _call(flat, tensors, model.name)
    names = output_names(result, graph.outputs)
    if not graph.outputs:
        # A network that returns its state under the name it took it: ONNX has one name space.
        taken = {identifier(spec.name) for spec in graph.inputs}
        names = tuple(f"{name}_out" if name in taken else name for name in names)
    _assert_distinct("outputs", names)
    exported = _export(flat, tensors, graph, axes)
    return _program(exported, graph, names, axes)


def _call(flat: FlatGraph, tensors: Sequence[torch.Tensor], name: str) -> Any:
    try:
        return flat.call(*tensors)
    except EdgekitError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{list(tensor.shape)}" for tensor in tensors)
        raise UsageError(
            f"{name} does not run on inputs of shape {shapes}",
            f"{type(error).__name__}: {error}",
            "state its inputs with --input NAME:DTYPE[SHAPE]",
        ) from error


def assert_axes_exist(graph: GraphSpec, dynamic: DynamicAxes) -> None:
    """Raise UsageError where ``dynamic`` names an input or an axis that is not there."""
    ranks = {spec.name: len(spec.shape) for spec in graph.inputs}
    for name, axes in dynamic.items():
        if name not in ranks:
            raise UsageError(f"no input {name} to make dynamic", f"inputs: {', '.join(ranks)}")
        for axis, (low, high) in axes.items():
            if not 0 <= axis < ranks[name] or not 0 < low <= high:
                raise UsageError(
                    f"cannot make {name}:{axis}={low}..{high} dynamic",
                    f"{name} has {ranks[name]} axes, and a range runs from at least 1 upwards",
                )


def _assert_distinct(what: str, names: Sequence[str]) -> None:
    clean = [identifier(name) for name in names]
    if twice := [name for name, seen in zip(names, clean, strict=True) if clean.count(seen) > 1]:
        raise UsageError(
            f"the {what} {', '.join(twice)} cannot be told apart",
            f"runtimes know them all as {identifier(twice[0])}",
        )


def output_names(result: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the flat outputs: ``wanted``, else the keys that the network itself gives."""
    named, _ = pytree.tree_flatten_with_path(_plain(result))
    tensors = [path for path, leaf in named if isinstance(leaf, torch.Tensor)]
    if not tensors:
        raise UsageError("the network returns no tensor", f"it returned {type(result).__name__}")
    if wanted:
        if len(wanted) != len(tensors):
            raise UsageError(
                f"the network returns {len(tensors)} tensors", f"{len(wanted)} names were given"
            )
        return tuple(identifier(name) for name in wanted)
    if len(tensors) == 1 and not tensors[0]:
        return ("output",)
    return tuple("_".join(_key(part) for part in path) for path in tensors)


def _key(part: Any) -> str:
    index = getattr(part, "idx", None)
    if index is not None:
        return f"output_{index}"
    # A dictionary's key, or a dataclass' field.
    return identifier(str(getattr(part, "key", getattr(part, "name", part))))


def _export(
    flat: nn.Module, tensors: tuple[torch.Tensor, ...], graph: GraphSpec, axes: DynamicAxes
) -> torch.export.ExportedProgram:
    shapes = None
    if axes:
        shapes = tuple(_dims(axes.get(spec.name, {}), len(spec.shape)) for spec in graph.inputs)
    try:
        # Oblivious to sizes: that a map shrinks to one pixel in the example is no reason to
        # take it for one pixel at every size.
        with torch.no_grad(), quiet(), symbolic.patch(backed_size_oblivious=bool(axes)):
            return torch.export.export(flat, tensors, dynamic_shapes=shapes, strict=False)
    except EdgekitError:
        raise
    except Exception as error:
        raise UnsupportedError(
            "torch.export cannot capture the network",
            f"{type(error).__name__}: {_first_lines(error)}",
            "rewrite the named line without control flow on tensor values, or export static shapes",
        ) from error


def _dims(axes: Mapping[int, tuple[int, int]], rank: int) -> tuple[Any, ...]:
    dim = torch.export.Dim
    return tuple(
        dim.DYNAMIC(min=axes[axis][0], max=axes[axis][1]) if axis in axes else dim.STATIC
        for axis in range(rank)
    )


def _first_lines(error: Exception, limit: int = 400) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[:limit] + " …"


def _program(
    exported: torch.export.ExportedProgram,
    graph: GraphSpec,
    outputs: tuple[str, ...],
    axes: DynamicAxes,
) -> Program:
    names = [identifier(spec.name) for spec in graph.inputs]
    exported = rename_user_inputs(exported, names)
    symbols = _symbols(exported, graph, names, axes)
    ranges = {axis: AxisRange(min=low, max=high) for axis, (low, high) in symbols.values()}
    rename = {symbol: axis for symbol, (axis, _) in symbols.items()}
    nodes = {node.name: node for node in exported.graph.nodes}
    return Program(
        name=graph.name,
        exported=exported,
        inputs=tuple(_spec(name, nodes[name].meta["val"], rename) for name in names),
        outputs=tuple(
            _spec(name, nodes[node].meta["val"], rename)
            for name, node in zip(outputs, exported.graph_signature.user_outputs, strict=True)
        ),
        dynamic=ranges,
        states=graph.states,
        picked=graph.picked,
    )


def _symbols(
    exported: torch.export.ExportedProgram,
    graph: GraphSpec,
    names: Sequence[str],
    axes: DynamicAxes,
) -> dict[str, tuple[str, tuple[int, int]]]:
    """Per symbol of the graph, the axis' name and range; equal axes share the first name."""
    nodes = {node.name: node for node in exported.graph.nodes}
    found: dict[str, tuple[str, tuple[int, int]]] = {}
    for spec, name in zip(graph.inputs, names, strict=True):
        shape = nodes[name].meta["val"].shape
        for axis, limits in axes.get(spec.name, {}).items():
            size = shape[axis]
            if isinstance(size, int):
                raise UnsupportedError(
                    f"axis {axis} of {spec.name} cannot be dynamic",
                    f"the network fixes it to {size}",
                )
            found.setdefault(str(size), (f"{name}_{axis}", limits))
    return found


def _spec(name: str, value: torch.Tensor, rename: Mapping[str, str]) -> TensorSpec:
    def size(dim: int | torch.SymInt) -> int | str:
        if isinstance(dim, int):
            return dim
        text = str(dim)
        for symbol, axis in rename.items():
            text = re.sub(rf"\b{re.escape(symbol)}\b", axis, text)
        return text

    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name=name, dtype=dtype, shape=tuple(size(dim) for dim in value.shape))
