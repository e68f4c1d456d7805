"""Tiny ML programs, written with coremltools' builder and run by the interpreter.

The builder is only the pen: what a program means is checked against PyTorch and NumPy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.export.mil import Interpreter, read_package
from edgekit.export.mil.program import HELD

# Half of fp16's spacing at 1, and room for sums in another order.
TOLERANCE = {"float32": 2e-6, "float16": 1e-3}


def builder() -> Any:
    """coremltools' ``mb``."""
    from coremltools.converters.mil import Builder

    return Builder


def emit(
    build: Callable[..., Any],
    arrays: dict[str, np.ndarray],
    package: Path,
    system: str = "iOS18",
) -> None:
    """Write the program that ``build`` makes of its inputs, as it is: no pass touches it."""
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget
    from coremltools.converters.mil.backend.mil.load import MILProtoExporter
    from coremltools.converters.mil.mil import Function, Program, types
    from coremltools.proto import Model_pb2

    target = AvailableTarget[system]
    kinds = {
        "float32": types.fp32,
        "float16": types.fp16,
        "int32": types.int32,
        "bool": types.bool,
    }
    inputs = {
        name: builder().placeholder(array.shape, kinds[str(array.dtype)])
        for name, array in arrays.items()
    }
    with Function(inputs, opset_version=target) as function:
        results = build(*(function.inputs[name] for name in inputs))
        function.set_outputs(list(results) if isinstance(results, tuple) else [results])
    program = Program()
    program.add_function("main", function)
    program.skip_all_passes = True
    data = package / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    model = Model_pb2.Model(specificationVersion=target.value)
    exporter = MILProtoExporter(program, str(data / "weights"), target.value)
    model.mlProgram.CopyFrom(exporter.export())
    (data / "model.mlmodel").write_bytes(model.SerializeToString())


def interpret(build: Callable[..., Any], *arrays: np.ndarray, system: str = "iOS18") -> Any:
    """What the interpreter makes of the program that ``build`` writes for these inputs.

    Returns:
        an array, or a tuple of them; the type of floats is the program's.
    """
    named = {f"x{index}": array for index, array in enumerate(arrays)}
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "m.mlpackage"
        emit(build, named, package, system)
        function, _ = read_package(package)
    held = {
        value.name: torch.from_numpy(named[value.name].copy()).to(HELD[value.type.dtype])
        for value in function.inputs
    }
    found, _ = Interpreter(function).run(held)
    results = tuple(value.numpy() for value in found.values())
    return results[0] if len(results) == 1 else results


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Seeded values of the standard normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(found: Any, wanted: Any, dtype: str = "float32") -> None:
    """Assert that values agree as closely as the type can, relative to their own size."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    if wanted.dtype.kind in "iub":
        assert np.array_equal(found, wanted)
        return
    scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE[dtype] * scale)
    if dtype == "float16":  # every result is an fp16 number
        assert np.array_equal(found, found.astype(np.float16).astype(np.float32), equal_nan=True)
