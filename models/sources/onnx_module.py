"""``.onnx`` files as a model source: a network that torch can trace.

All targets start from one graph, a ``torch.export.ExportedProgram``. So that an ONNX file
can go to each of them, :class:`OnnxModule` runs its nodes with torch functions.
"""

from __future__ import annotations

import inspect
import keyword
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from edgekit.errors import EdgekitError, UnsupportedError, UsageError

from ..spec import GraphSpec, InputSpec, LoadedModel
from .onnx_graph import GraphInput, read_file, read_graph
from .onnx_linear import form_linear
from .onnx_ops import (
    HOST_OPERATORS,
    NUMPY_TYPES,
    OPERATORS,
    Node,
    Value,
    host_value,
    literal,
    tensor_from_numpy,
)

if TYPE_CHECKING:
    import onnx

# Float constants up to this many elements may take part in shape arithmetic (the scales
# of a Resize, for example) and are kept on the host, too.
SMALL = 64

# What NumPy and torch raise where arguments do not fit an operation.
FAULTS = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class OnnxNode(nn.Module):
    """One node of the graph. Being a module, it gives what is traced in it its name."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.operator = OPERATORS[node.op]

    def forward(self, *arguments: Value | None) -> Any:
        with named(self.node):
            return self.operator.run(self.node, *arguments)

    def on_host(self, *arguments: np.ndarray | None) -> Any:
        """The node's results in NumPy, or NotImplemented where torch must compute them."""
        function = HOST_OPERATORS.get(self.node.op)
        if function is None:
            return NotImplemented
        with named(self.node):
            return function(self.node, *arguments)

    def extra_repr(self) -> str:
        return f"{self.node.op}, {self.node.name!r}"


@contextmanager
def named(node: Node) -> Iterator[None]:
    """Let errors say which node failed."""
    try:
        yield
    except EdgekitError:
        raise
    except FAULTS as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise node.refuse(why) from error


class OnnxModule(nn.Module):
    """An ONNX graph as a network, for ``torch.export.export(…, strict=False)``.

    Float constants are parameters without gradients, named after their ONNX names with
    other characters than letters, digits and ``_`` replaced; matrices that only linear
    layers read are stored transposed. Each node is a child module named after it, so that
    the captured program knows which node an operation comes from.

    Call it with the graph's inputs in order. It returns one tensor, or a tuple if the graph
    has several outputs.

    Args:
        model: a checked ONNX model, opset 11 to 24, default domain, with its data loaded.

    Raises:
        UnsupportedError: on construction: operators that are not supported, all of them
            listed; when run or captured: a use of an operator that torch cannot express,
            or a shape that depends on data. Both name the node.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = read_graph(model)
        nodes, constants = form_linear(graph.nodes, graph.constants, graph.outputs)
        self.inputs: tuple[GraphInput, ...] = tuple(graph.inputs)
        self.output_names = tuple(graph.outputs)
        self.weight_names: dict[str, str] = {}  # ONNX name -> attribute
        self.child_names: list[str] = []
        self._host: dict[str, np.ndarray] = {}
        self._add_constants(nodes, constants)
        for node in nodes:
            self.child_names.append(self._free_name(node.name))
            self.add_module(self.child_names[-1], OnnxNode(node))
        self._last_reads = last_reads(nodes, self.output_names)
        names = parameter_names(value.name for value in self.inputs)
        self.forward = types.MethodType(forward_function(names), self)
        self.eval()

    def _free_name(self, name: str) -> str:
        return free_name(name, lambda candidate: hasattr(self, candidate))

    def _add_constants(self, nodes: list[Node], constants: Mapping[str, np.ndarray]) -> None:
        """Keep each constant where its readers want it: as a parameter, on the host, or both."""
        as_tensor, on_host = constant_uses(nodes, constants, self.output_names)
        for name, array in constants.items():
            floating = array.dtype.kind not in "biu"
            if not floating or array.size <= SMALL or name in on_host:
                self._host[name] = array
            if floating and name in as_tensor:
                attribute = self._free_name(name)
                parameter = nn.Parameter(tensor_from_numpy(array), requires_grad=False)
                self.register_parameter(attribute, parameter)
                self.weight_names[name] = attribute

    def run(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What ``forward`` does; ``forward`` itself has the graph's own signature."""
        if len(inputs) != len(self.inputs):
            raise TypeError(f"the graph has {len(self.inputs)} inputs, {len(inputs)} are given")
        values: dict[str, Value] = dict(zip((i.name for i in self.inputs), inputs, strict=True))
        for child, finished in zip(self.child_names, self._last_reads, strict=True):
            module = getattr(self, child)
            node = module.node
            results = self._evaluate(module, node, values)
            results = results if isinstance(results, tuple) else (results,)
            values.update((n, r) for n, r in zip(node.outputs, results, strict=False) if n)
            for name in finished:
                values.pop(name, None)
        outputs = tuple(self._tensor(name, values) for name in self.output_names)
        return outputs[0] if len(outputs) == 1 else outputs

    def _evaluate(self, module: OnnxNode, node: Node, values: dict[str, Value]) -> Any:
        """On the host if all inputs are known and NumPy can, else with torch."""
        known = [self._known(name, values) for name in node.inputs]
        if all(k is not None or not n for k, n in zip(known, node.inputs, strict=True)):
            results = module.on_host(*known)
            if results is not NotImplemented:
                several = isinstance(results, tuple)
                return tuple(map(host_value, results)) if several else host_value(results)
        arguments = [self._argument(node, i, values) for i in range(len(node.inputs))]
        return module(*arguments)

    def _argument(self, node: Node, position: int, values: dict[str, Value]) -> Value | None:
        """One argument, in the form that the operator wants."""
        name = node.inputs[position]
        if not name:
            return None
        operator, known = OPERATORS[node.op], self._known(name, values)
        if position in operator.host:
            if known is None:
                raise node.refuse(f"its input {name!r} must be known when the model is captured")
            return known
        as_parameter = name in self.weight_names and (known is None or known.size != 1)
        if position in operator.raw and known is not None and not as_parameter:
            return known
        return self._tensor(name, values)

    def _known(self, name: str, values: dict[str, Value]) -> np.ndarray | None:
        value = self._host.get(name) if name not in values else values[name]
        return value if isinstance(value, np.ndarray) else None

    def _tensor(self, name: str, values: dict[str, Value]) -> Tensor:
        if name in self.weight_names:
            return getattr(self, self.weight_names[name])
        return literal(values[name] if name in values else self._host[name])


def forward_function(names: list[str]) -> Callable[..., Any]:
    """A ``forward`` whose signature has the graph's inputs: torch.export takes placeholder
    names and the layout of dynamic shapes from it."""

    def forward(self: OnnxModule, *inputs: Tensor, **rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.run(*inputs, *(rest[name] for name in names[len(inputs) :] if name in rest))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ["self", *names]]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """``name`` as a Python identifier that is not taken yet."""
    base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "value"
    base = f"n{base}" if base[0].isdigit() else base
    base = f"{base}_" if keyword.iskeyword(base) else base
    candidate, number = base, 2
    while taken(candidate):
        candidate, number = f"{base}_{number}", number + 1
    return candidate


def parameter_names(names: Iterable[str]) -> list[str]:
    """Names for a function's parameters, from any names."""
    result = ["self"]
    for name in names:
        result.append(free_name(name, result.__contains__))
    return result[1:]


def constant_uses(
    nodes: list[Node], constants: Mapping[str, np.ndarray], outputs: tuple[str, ...]
) -> tuple[set[str], set[str]]:
    """Names of the constants read as tensors, and of those read on the host."""
    as_tensor, on_host = set(outputs), set()
    for node in nodes:
        operator = OPERATORS[node.op]
        for position, name in enumerate(node.inputs):
            if name not in constants:
                continue
            if position in operator.host:
                on_host.add(name)
            elif position not in operator.raw or constants[name].size != 1:
                as_tensor.add(name)
    return as_tensor, on_host


def last_reads(nodes: list[Node], outputs: tuple[str, ...]) -> list[list[str]]:
    """For each node the values that nobody reads after it, so that they can be freed."""
    kept = set(outputs)
    result: list[list[str]] = []
    for node in reversed(nodes):
        finished = {name for name in (*node.inputs, *node.outputs) if name} - kept
        kept |= finished
        result.append(sorted(finished))
    return result[::-1]


# --- the model source --------------------------------------------------------------------


def load_onnx(path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> LoadedModel:
    """Load an ``.onnx`` file as a network ready for capture.

    Names of inputs and outputs are the file's own. A first axis without a fixed size is
    taken for the batch and becomes 1, unless its name says that it counts something else
    (``seq_len``, ``height`` …).

    Args:
        path: the file; external data may lie in its folder or below.
        shapes: sizes of inputs whose axes are not all fixed. A named axis that is given a
            size for one input has it for the others, too.

    Raises:
        UsageError: an axis has no size, or ``shapes`` does not fit the file.
        InputError: the file is damaged. UnsupportedError: see :class:`OnnxModule`.
    """
    path = Path(path)
    model = read_file(path)
    module = OnnxModule(model)
    inputs = input_specs(module, shapes or {}, path.name)
    return LoadedModel(
        name=path.stem,
        source=str(path),
        module=module,
        graphs=(GraphSpec("forward", inputs=inputs, outputs=module.output_names),),
        weights=f"onnx file {path.name}",
    )


def input_specs(
    module: OnnxModule, shapes: Mapping[str, tuple[int, ...]], file: str
) -> tuple[InputSpec, ...]:
    """The inputs with all sizes settled: the file's, the caller's, 1 for the batch."""
    known = [value.name for value in module.inputs]
    for name in shapes:
        if name not in known:
            raise UsageError(f"{file} has no input {name!r}", f"its inputs are {', '.join(known)}")
    sizes = named_sizes(module.inputs, shapes, file)
    high = index_limits(module)
    specs = []
    for value in module.inputs:
        if value.code not in NUMPY_TYPES:
            raise UnsupportedError(f"input {value.name!r} of {file}", "its type is not supported")
        dtype = NUMPY_TYPES[value.code].name
        shape = shapes.get(value.name) or settled_shape(value, sizes, dtype, file)
        # Where integers do not select from a table they may be a mask: all ones, then.
        mask = "mask" in value.name.lower() and value.name not in high and dtype[:3] == "int"
        limits = {"low": 1, "high": 2} if mask else {"high": high.get(value.name)}
        specs.append(InputSpec(value.name, dtype, tuple(shape), **limits))
    return tuple(specs)


def named_sizes(
    inputs: tuple[GraphInput, ...], shapes: Mapping[str, tuple[int, ...]], file: str
) -> dict[str, int]:
    """Sizes of the named axes as far as ``shapes`` tells, checked against the file."""
    sizes: dict[str, int] = {}
    for value in inputs:
        given = shapes.get(value.name)
        if given is None or value.dims is None:
            continue
        if len(given) != len(value.dims):
            why = f"the file says {len(value.dims)} axes"
            raise UsageError(f"input {value.name!r} of {file} cannot be {list(given)}", why)
        for size, dim in zip(given, value.dims, strict=True):
            wanted = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            if wanted is not None and size != wanted:
                why = f"{dim if isinstance(dim, str) else 'an axis'} is {wanted}"
                raise UsageError(f"input {value.name!r} of {file} cannot be {list(given)}", why)
    return sizes


# Parts of axis names that speak of something else than the batch.
NOT_BATCH = ("seq", "len", "time", "height", "width", "token", "frame", "point", "sample")


def settled_shape(
    value: GraphInput, sizes: Mapping[str, int], dtype: str, file: str
) -> tuple[int, ...]:
    """The sizes of one input that the caller did not give."""
    open_axes = ["?"] if value.dims is None else []
    shape: list[int] = []
    for axis, dim in enumerate(value.dims or ()):
        named = dim if isinstance(dim, str) else ""
        if isinstance(dim, int):
            shape.append(dim)
        elif named in sizes:
            shape.append(sizes[named])
        elif "batch" in named.lower() or (
            axis == 0 and not any(part in named.lower() for part in NOT_BATCH)
        ):
            shape.append(1)
        else:
            open_axes.append(named or f"axis {axis}")
    if open_axes:
        example = ",".join("N" if d is None else str(d) for d in value.dims or ("N",))
        raise UsageError(
            f"input {value.name!r} of {file} has no fixed size",
            f"{', '.join(open_axes)} can be anything",
            f"--input {value.name}:{dtype}[{example}] with numbers for the names",
        )
    return tuple(shape)


def index_limits(module: OnnxModule) -> dict[str, int]:
    """The number of rows of the table that an integer input selects from, by input."""
    limits: dict[str, int] = {}
    names = {value.name: value.name for value in module.inputs}  # a value -> the input it is
    for child in module.child_names:
        node = getattr(module, child).node
        if node.op in ("Cast", "Identity", "Unsqueeze", "Reshape") and node.inputs[0] in names:
            names[node.outputs[0]] = names[node.inputs[0]]
        table = module.weight_names.get(node.inputs[0]) if node.op == "Gather" else None
        sizes = getattr(module, table).shape if table else ()
        axis = node.get("axis", 0)
        if -len(sizes) <= axis < len(sizes) and node.inputs[1] in names:
            source = names[node.inputs[1]]
            limits[source] = min(sizes[axis], limits.get(source, sizes[axis]))
    return limits
