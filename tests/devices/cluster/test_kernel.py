"""The compiled kernel computes what the NumPy one does, for several kinds of processors."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from edgekit.devices.cluster import native
from edgekit.devices.cluster.collective import Alone
from edgekit.devices.cluster.engine import Engine
from edgekit.devices.cluster.packing import PRECISIONS
from edgekit.devices.cluster.split import split
from edgekit.errors import MissingBackendError

from .helpers import save_model

IDS = [int(i) for i in np.random.default_rng(2).integers(0, 256, 30)]
# Activations of integer weights are rounded to int8 in the compiled kernel alone.
NMSE = {"fp32": 1e-9, "bf16": 1e-9, "int8": 2e-3, "int4": 2e-3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    save_model(folder, "qwen3", sliding_window=None)
    return folder


def logits(folder, **options) -> np.ndarray:
    with Engine.open(folder, 0, Alone(), context=64, **options) as engine:
        rows = [engine.prefill(IDS[:13]).copy()]
        rows += [engine.decode(token).copy() for token in IDS[13:]]
        assert engine.report()["kernel"] == options["kernel"]
        return np.stack(rows)


def nmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - b) ** 2).sum() / (b**2).sum())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", ["", "haswell", "x86-64"])
def test_kernels_agree(checkpoint, tmp_path, monkeypatch, precision, architecture):
    if architecture and platform.machine() != "x86_64":
        pytest.skip("another kind of processor")
    monkeypatch.setenv(native.ARCHITECTURE_VARIABLE, architecture)
    native.library.cache_clear()
    try:
        (folder,) = split(checkpoint, tmp_path / "out", precision=precision)
        plain = logits(folder, kernel="numpy", cache="fp32")
        for threads in (1, 3):
            found = logits(folder, kernel="compiled", cache="fp32", threads=threads)
            assert nmse(found, plain) < NMSE[precision]
        halves = logits(folder, kernel="compiled", cache="fp16", threads=2)
        assert 0 < nmse(halves, found) < max(NMSE[precision], 1e-4)
    finally:
        native.library.cache_clear()


def test_without_a_compiler_numpy_computes(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv(native.COMPILER_VARIABLE, str(tmp_path / "no-compiler"))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    native.library.cache_clear()
    try:
        (folder,) = split(checkpoint, tmp_path / "out")
        with Engine.open(folder, 0, Alone(), context=16) as engine:
            assert engine.report()["kernel"] == "numpy"
        with pytest.raises(MissingBackendError, match="no-compiler"):
            Engine.open(folder, 0, Alone(), context=16, kernel="compiled")
    finally:
        native.library.cache_clear()
