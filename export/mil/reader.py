"""Read an ``.mlpackage`` as emitted: the specification's protobuf and the weight files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgekit.errors import BundleError, UnsupportedError

from .blobs import BlobFile, unpack
from .program import HELD, Argument, Block, Function, Name, Named, Operation, TensorType

_DATA = Path("Data") / "com.apple.CoreML"
_AT = "@model_path/"

# The sets of operators whose definitions the interpreter follows: iOS 17 to iOS 26. Earlier
# ones define some operators otherwise (negative indices of a gather, boxes of a crop).
OPSETS: Final = ("CoreML7", "CoreML8", "CoreML9")

# In which field of the protobuf the values of a type are.
_FIELDS: Final = {
    "bool": "bools",
    "string": "strings",
    "float32": "floats",
    "int16": "ints",
    "uint16": "ints",
    "int32": "ints",
    "int64": "longInts",
}


def read_package(package: Path) -> tuple[Function, Any]:
    """The main function of the program in a package, and the whole specification.

    Raises:
        BundleError: the package is damaged or holds no ML program.
        UnsupportedError: the program is written for a set of operators that is not known.
    """
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    folder = package / _DATA
    spec = Model_pb2.Model()
    try:
        spec.ParseFromString((folder / "model.mlmodel").read_bytes())
    except (DecodeError, OSError) as error:
        raise BundleError(f"{package.name} is damaged", f"no specification: {error}") from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise BundleError(f"{package.name} holds no ML program", str(spec.WhichOneof("Type")))
    function = spec.mlProgram.functions.get("main")
    if function is None or function.opset not in function.block_specializations:
        raise BundleError(f"{package.name} is damaged", "its program has no main function")
    if function.opset not in OPSETS:
        raise UnsupportedError(
            f"the interpreter does not know the operators of {function.opset}",
            f"it knows those of {', '.join(OPSETS)}",
        )
    return _Reader(folder).function(function), spec


class _Reader:
    """Turns protobuf messages into our own records; weight files are opened once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs: dict[str, BlobFile] = {}

    def function(self, message: Any) -> Function:
        block = self._block(message.block_specializations[message.opset])
        return Function(tuple(map(self._named, message.inputs)), message.opset, block)

    def _block(self, message: Any) -> Block:
        return Block(
            tuple(value.name for value in message.inputs),
            tuple(message.outputs),
            tuple(map(self._operation, message.operations)),
        )

    def _operation(self, message: Any) -> Operation:
        # Constants, and constant expressions of iOS 17, carry their arguments as attributes.
        inputs = {key: self._value(value) for key, value in message.attributes.items()}
        name = inputs.pop("name", "")
        inputs |= {key: self._argument(value) for key, value in message.inputs.items()}
        return Operation(
            message.type,
            name if isinstance(name, str) else "",
            inputs,
            tuple(map(self._named, message.outputs)),
            tuple(map(self._block, message.blocks)),
        )

    def _named(self, message: Any) -> Named:
        return Named(message.name, _type(message.type))

    def _argument(self, message: Any) -> Argument:
        found = [
            Name(bound.name) if bound.WhichOneof("binding") == "name" else self._value(bound.value)
            for bound in message.arguments
        ]
        return found[0] if len(found) == 1 else found

    def _value(self, message: Any) -> Argument:
        immediate = message.immediateValue
        kind = immediate.WhichOneof("value")
        if message.WhichOneof("value") == "immediateValue" and kind in ("list", "tuple"):
            return [self._value(item) for item in getattr(immediate, kind).values]
        declared = _type(message.type)
        if declared.shape is None or None in declared.shape:
            raise BundleError("the program is damaged", "a constant has no size")
        if message.WhichOneof("value") == "blobFileValue":
            stored = message.blobFileValue
            array = self._blob(stored.fileName).read(stored.offset, declared.dtype, declared.shape)
        elif kind == "tensor":
            array = _immediate(immediate.tensor, declared.dtype, declared.shape)
        else:
            raise UnsupportedError(f"the interpreter does not know constants that are a {kind}")
        if isinstance(array, str):
            return array
        return torch.from_numpy(array).to(HELD[declared.dtype])

    def _blob(self, name: str) -> BlobFile:
        if name not in self._blobs:
            path = (self._folder / name.removeprefix(_AT)).resolve()
            if not path.is_relative_to(self._folder.resolve()) or not path.is_file():
                raise BundleError("the package is damaged", f"it has no weight file {name}")
            self._blobs[name] = BlobFile(path)
        return self._blobs[name]


def _type(message: Any) -> TensorType:
    kind = message.WhichOneof("type")
    if kind == "stateType":
        inner = _type(message.stateType.wrappedType)
        return TensorType(inner.dtype, inner.shape, state=True)
    if kind != "tensorType":
        return TensorType("string", None)  # lists and tuples, which have no type of their own
    from coremltools.proto import MIL_pb2

    tensor = message.tensorType
    kinds = MIL_pb2.DataType.DESCRIPTOR.values_by_number
    dtype = kinds[tensor.dataType].name.lower() if tensor.dataType in kinds else "?"
    if dtype not in HELD:
        raise UnsupportedError(f"the interpreter does not know the type {dtype}")
    sizes = tensor.dimensions
    if any(size.WhichOneof("dimension") == "unknown" and size.unknown.variadic for size in sizes):
        return TensorType(dtype, None)
    shape = (
        size.constant.size if size.WhichOneof("dimension") == "constant" else None for size in sizes
    )
    return TensorType(dtype, tuple(shape))


def _immediate(tensor: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray | str:
    field = _FIELDS.get(dtype, "bytes")
    values = getattr(tensor, field).values
    try:
        if dtype == "string":
            return str(values[0])
        if field == "bytes":
            return unpack(values, dtype, shape)
        array = np.array(values, dtype=bool if dtype == "bool" else dtype)
        if array.size != math.prod(shape):
            raise ValueError(f"{array.size} values are not of shape {list(shape)}")
        return array.reshape(shape)
    except (IndexError, ValueError) as error:
        raise BundleError("the program is damaged", f"a constant: {error}") from error
