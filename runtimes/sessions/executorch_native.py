"""ExecuTorch without torch: ``.pte`` programs through a small library of ExecuTorch's C++ runtime.

``edgekit pack`` compiles that library (``runtimes/native/executorch_runner.cpp``) for a device and
puts it, with ExecuTorch's own, into a wheel whose package is :data:`PACKAGE`. This session
calls it through ctypes where torch is not installed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import (
    BundleError,
    EdgekitError,
    MissingBackendError,
    UnsupportedError,
    UsageError,
)
from edgekit.manifest import Artifact, Graph

from .base import Session, failed, refused
from .executorch_log import kernel_reason, last_line, missing_kernels

PACKAGE: Final = "edgekit_executorch"
LIBRARY: Final = "libedgekit_executorch.so"

_MOST_DIMENSIONS: Final = 16
_ROOM: Final = 1 << 14  # bytes for a reason in words

# ExecuTorch's numbers of scalar types, as in its scalar_type.h; NumPy has no bfloat16.
_TYPES: Final = dict(
    zip(
        (np.dtype(name) for name in ("u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?")),
        (0, 1, 2, 3, 4, 5, 6, 7, 11),
        strict=True,
    )
)
_DTYPES: Final = {number: dtype for dtype, number in _TYPES.items()}


class _Tensor(ctypes.Structure):
    """``edgekit_tensor`` of the library."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int32 * _MOST_DIMENSIONS),
        ("strides", ctypes.c_int32 * _MOST_DIMENSIONS),
    ]


class _Pool:
    """The one thread pool of the process; as of :class:`.executorch._Pool`, a method keeps the
    pool that it was loaded with, so each change of size starts a new generation."""

    generation = 0
    default: int | None = None

    @classmethod
    def ready(cls, library: ctypes.CDLL, threads: int | None) -> int:
        """Give the pool ``threads`` (None: the size it started with); the generation."""
        now = library.edgekit_threads(0)
        cls.default = cls.default or now
        wanted = threads or cls.default
        if now != wanted:
            library.edgekit_threads(wanted)
            cls.generation += 1
        return cls.generation


class NativeExecuTorchSession(Session):
    """The method ``forward`` of a program; inputs and outputs go by position.

    As of :class:`.executorch.ExecuTorchSession`, the number of threads is that of the process's
    one pool, and ``effective_precision`` is the artifact's.

    Raises:
        MissingBackendError: the library is not installed, or does not load.
        UnsupportedError: the program needs a kernel that the library has not.
        BundleError: it is no program, or none of this contract.
    """

    runtime: ClassVar[str] = "executorch"

    def __init__(
        self, files: Files, graph: Graph, artifact: Artifact, threads: int | None = None
    ) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        self._handle: int | None = None
        self._library = load_library()
        self._why = ctypes.create_string_buffer(_ROOM)
        self._path = str(files.file(artifact.file or "")).encode()
        tables = [str(files.file(extra)) for extra in artifact.extra if extra.endswith(".ptd")]
        self._table = tables[0].encode() if tables else b""
        self._file = artifact.file
        self._load(_Pool.ready(self._library, threads))
        self._check_signature()
        self.effective_precision = artifact.effective_precision or artifact.precision

    def _load(self, generation: int) -> None:
        self._free()  # the old one's arenas first
        self._handle = self._library.edgekit_load(self._path, self._table, self._why, _ROOM)
        self._generation = generation
        if self._handle is None:
            raise self._refusal(self._said())

    def _refusal(self, said: str) -> EdgekitError:
        if "no method 'forward'" in said:
            return BundleError(f"{self._file} has no method 'forward'")
        if missing := missing_kernels(said):
            return UnsupportedError(
                f"executorch has no kernel for {', '.join(missing)}",
                f"{self._file} was lowered for a build that has one",
            )
        return refused(self.runtime, self._file, RuntimeError(last_line(said)))

    def _check_signature(self) -> None:
        have = tuple(self._library.edgekit_count(self._handle, which) for which in (0, 1))
        want = len(self.inputs), len(self.outputs)
        if have != want:
            raise BundleError(
                f"{self._file} does not fit the manifest",
                f"it has {have[0]} inputs and {have[1]} outputs instead of {want[0]} and {want[1]}",
            )

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        generation = _Pool.ready(self._library, self.threads)
        if generation != self._generation:
            self._load(generation)
        # Kept until the run is over: the library reads their memory.
        arrays = [np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs]
        given = (_Tensor * len(arrays))(*(_describe(array) for array in arrays))
        if self._library.edgekit_run(self._handle, given, len(arrays), self._why, _ROOM):
            said = self._said()
            raise failed(self.runtime, RuntimeError(kernel_reason(said) or last_line(said)))
        return {spec.name: self._output(i, spec.dtype) for i, spec in enumerate(self.outputs)}

    def _output(self, index: int, dtype: str) -> np.ndarray:
        """A copy of an output, whose memory the next run writes to."""
        found = _Tensor()
        if self._library.edgekit_output(self._handle, index, ctypes.byref(found), self._why, _ROOM):
            raise failed(self.runtime, RuntimeError(last_line(self._said())))
        stored = _DTYPES.get(found.type)
        if stored is None:
            raise UnsupportedError(
                f"an output of {self._file} is of a type that NumPy has not",
                f"ExecuTorch's scalar type {found.type}",
            )
        array = np.empty(tuple(found.sizes[: found.rank]), dtype)
        if found.bytes:
            memory = (ctypes.c_char * found.bytes).from_address(found.data)
            steps = [step * stored.itemsize for step in found.strides[: found.rank]]
            array[...] = np.ndarray(array.shape, stored, memory, strides=steps)
        return array

    def _said(self) -> str:
        return self._why.value.decode(errors="replace")

    def _free(self) -> None:
        if self._handle is not None:
            self._library.edgekit_free(self._handle)
            self._handle = None

    def close(self) -> None:
        """Release the program."""
        self._free()
        super().close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._free()


def _describe(array: np.ndarray) -> _Tensor:
    if array.dtype not in _TYPES or array.ndim > _MOST_DIMENSIONS:
        raise UsageError(f"executorch takes no {array.dtype} of {array.ndim} dimensions")
    sizes = (ctypes.c_int32 * _MOST_DIMENSIONS)(*array.shape)
    return _Tensor(array.ctypes.data, array.nbytes, _TYPES[array.dtype], array.ndim, sizes)


@functools.cache
def load_library() -> ctypes.CDLL:
    """The library, with the types of its functions.

    Raises:
        MissingBackendError: it is not installed, or the system cannot load it.
    """
    try:
        package: Any = importlib.import_module(PACKAGE)
        library = ctypes.CDLL(str(Path(package.__file__).parent / "lib" / LIBRARY))
    except (ImportError, OSError) as error:
        raise MissingBackendError(
            "executorch is not here",
            str(error),
            "edgekit pack puts it into a device's kit",
        ) from error
    text, number, room = ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    handle, tensor = ctypes.c_void_p, ctypes.POINTER(_Tensor)
    for name, result, arguments in (
        ("threads", number, (number,)),
        ("load", handle, (text, text, text, room)),
        ("count", number, (handle, number)),
        ("run", number, (handle, tensor, number, text, room)),
        ("output", number, (handle, number, tensor, text, room)),
        ("free", None, (handle,)),
    ):
        function = getattr(library, f"edgekit_{name}")
        function.restype, function.argtypes = result, arguments
    return library
