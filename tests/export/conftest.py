"""Captured programs, and one export of a tiny network to all targets, made once."""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from edgekit.export.capture import capture  # noqa: E402
from edgekit.models.sources import SourceOptions  # noqa: E402
from edgekit.models.sources.python_callable import describe_inputs, from_module  # noqa: E402

from . import nets  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _light() -> Iterator[None]:
    """One thread, and ONNX's table of translations read once, not for every conversion."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # pytest's log capture would make torch write its whole trace of every capture.
    logging.getLogger("torch.__trace").propagate = False
    with pytest.MonkeyPatch.context() as patch:
        try:
            from onnxscript._framework_apis import torch_2_5

            table = functools.cache(torch_2_5.get_torchlib_ops)
            patch.setattr(torch_2_5, "get_torchlib_ops", table)
        except (ImportError, AttributeError):
            pass  # another onnxscript: slower, and all the same
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these tests lands in the user's own folders."""
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EDGEKIT_TRACEBACK", raising=False)


@pytest.fixture(scope="session")
def loaded() -> Callable:
    """``loaded(module, inputs)``: a module as a model source hands it over."""

    def make(module, inputs=()):
        options = SourceOptions(inputs=describe_inputs(inputs))
        return from_module(module, "net", "net", options)

    return make


@pytest.fixture(scope="session")
def captured(loaded: Callable) -> Callable:
    """``captured(module, inputs, dynamic=None)``: the module's common graph."""

    def make(module, inputs=(), dynamic=None):
        model = loaded(module, inputs)
        return capture(model, model.graphs[0], dynamic)

    return make


@pytest.fixture(scope="session")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny network on all five targets: ``bundle``, ``result``, ``manifest``."""
    from edgekit.bundle import Bundle
    from edgekit.export import export

    out = tmp_path_factory.mktemp("everywhere") / "tiny"
    result = export(nets.tiny(), ["all"], out, report=False)
    with Bundle.open(out) as bundle:
        return SimpleNamespace(bundle=out, result=result, manifest=bundle.manifest)
