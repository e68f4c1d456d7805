"""ExecuTorch: runs ``.pte`` programs through its Python runtime.

That runtime links libtorch, so this session alone imports torch. Where torch is not installed,
:mod:`.executorch_native` runs the same file.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np

from edgekit.bundle import Files
from edgekit.errors import BundleError, MissingBackendError, UnsupportedError, UsageError
from edgekit.manifest import Artifact, Graph

from .base import Session, failed, first_reason, refused
from .executorch_log import kernel_reason, missing_kernels
from .native_output import captured_stderr

_METHOD: Final = "forward"


class _Pool:
    """The one thread pool that all programs in this process share.

    A method keeps the pool it was loaded with: after a change of size it goes on with a
    pool that is gone (measured: one thread for ever). So each change starts a new
    generation, and a session of an older one loads its method again before it runs.
    """

    generation = 0
    default: int | None = None

    @classmethod
    def ready(cls, library: ModuleType, threads: int | None) -> int:
        """Give the pool ``threads`` (None: the size it started with); the generation."""
        if cls.default is None:
            cls.default = library._threadpool_get_thread_count()
        wanted = threads or cls.default
        if library._threadpool_get_thread_count() != wanted:
            with captured_stderr():  # it announces each change
                library._unsafe_reset_threadpool(wanted)
            cls.generation += 1
        return cls.generation


class ExecuTorchSession(Session):
    """The method ``forward`` of a program; inputs and outputs go by position.

    The number of threads is that of the process's one pool. Sessions of different numbers
    may be mixed in one thread, at the price of loading the method again on each change.

    ``effective_precision`` is the artifact's: the program fixes the type of each value.
    """

    runtime: ClassVar[str] = "executorch"

    def __init__(
        self, files: Files, graph: Graph, artifact: Artifact, threads: int | None = None
    ) -> None:
        super().__init__(graph.inputs, graph.outputs, graph.dynamic, threads)
        self._torch, self._library, self._api = _load_library()
        self._path = str(files.file(artifact.file or ""))
        tables = [str(files.file(extra)) for extra in artifact.extra if extra.endswith(".ptd")]
        self._data_path = tables[0] if tables else None
        self._file = artifact.file
        self._method: Any = None
        self._load(_Pool.ready(self._library, threads))
        self._check_signature()
        self._input_names = [spec.name for spec in graph.inputs]
        self._output_names = [spec.name for spec in graph.outputs]
        self.effective_precision = artifact.effective_precision or artifact.precision

    def _load(self, generation: int) -> None:
        self._method = None  # frees the old one's arenas first
        with captured_stderr() as said:
            try:
                program = self._api.load_program(self._path, data_path=self._data_path)
                if _METHOD not in program.method_names:
                    raise BundleError(f"{self._file} has no method {_METHOD!r}")
                self._method = program.load_method(_METHOD)
            except RuntimeError as e:
                if missing := missing_kernels(said()):
                    raise UnsupportedError(
                        f"executorch has no kernel for {', '.join(missing)}",
                        f"{self._file} was lowered for a build that has one",
                    ) from e
                reason = said().strip().rpartition("] ")[2]
                raise refused(self.runtime, self._file, RuntimeError(reason or str(e))) from e
        self._program, self._generation = program, generation

    def _check_signature(self) -> None:
        meta = self._method.metadata
        have = meta.num_inputs(), meta.num_outputs()
        want = len(self.inputs), len(self.outputs)
        if have != want:
            raise BundleError(
                f"{self._file} does not fit the manifest",
                f"it has {have[0]} inputs and {have[1]} outputs instead of {want[0]} and {want[1]}",
            )

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self._execute([self._tensor(inputs[name]) for name in self._input_names])
        return {
            spec.name: np.asarray(result, dtype=spec.dtype)
            for spec, result in zip(self.outputs, results, strict=True)
        }

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> Callable[[], None]:
        """As :meth:`.base.Session.bind`: inputs are read in place, outputs are copied."""
        self._check(inputs)
        tensors = [self._tensor(inputs[name]) for name in self._input_names]
        sinks = [outputs[name] for name in self._output_names]

        def run() -> None:
            for sink, result in zip(sinks, self._execute(tensors), strict=True):
                np.copyto(sink, np.asarray(result), casting="same_kind")

        return run

    def _execute(self, tensors: list[Any]) -> list[Any]:
        generation = _Pool.ready(self._library, self.threads)
        if generation != self._generation:
            self._load(generation)
        if self._method is None:
            raise UsageError("this session is closed", "", "load the bundle again")
        try:
            return self._method.execute(tensors)
        except RuntimeError as e:
            raise failed(self.runtime, RuntimeError(self._reason(tensors) or str(e))) from e

    def _reason(self, tensors: list[Any]) -> str:
        """Why a run failed: the exception has a number only, the log names the operator."""
        with captured_stderr() as said:
            with contextlib.suppress(RuntimeError):
                self._method.execute(tensors)
            return kernel_reason(said())

    def _tensor(self, array: np.ndarray) -> Any:
        # torch takes neither negative strides nor, without a warning, read-only memory.
        if not (array.flags.c_contiguous and array.flags.writeable):
            array = np.array(array, order="C")
        return self._torch.from_numpy(array)

    def close(self) -> None:
        """Release the program."""
        self._method = self._program = None
        super().close()


def _load_library() -> tuple[ModuleType, ModuleType, Any]:
    """torch, ExecuTorch's native module and its runtime."""
    try:
        # Loading prints notes on the processor, on torchao and on the API's stability.
        with captured_stderr():
            torch = importlib.import_module("torch")
            library = importlib.import_module("executorch.extension.pybindings.portable_lib")
            library._threadpool_get_thread_count()
            api = importlib.import_module("executorch.runtime").Runtime.get()
    except ImportError as e:
        raise MissingBackendError(
            "executorch is not here", first_reason(e), 'pip install "edgekit-toolkit[executorch]"'
        ) from e
    return torch, library, api
