"""Captured programs, and one export of a tiny network to all targets, made once."""

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

from .graphs import remember_translations  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SOURCE = "tests/export/nets.py:tiny"


@pytest.fixture(scope="session", autouse=True)
def _light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, nothing in the user's own folders, and ONNX's table of translations read
    once, not for every conversion."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # pytest's log capture would make torch write its whole trace of every capture.
    logging.getLogger("torch.__trace").propagate = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("EDGEKIT_TRACEBACK", raising=False)
        remember_translations(patch)
        yield
    torch.set_num_threads(threads)


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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """``exported(targets, **options)``: the tiny network in a bundle of its own, opened:
    ``path``, ``result``, ``manifest``, and ``artifact(target)``."""
    from edgekit.bundle import Bundle
    from edgekit.export import export

    def make(targets=("all",), **options):
        out = tmp_path_factory.mktemp("exported") / "tiny"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(REPOSITORY)  # what is typed as MODEL is in the manifest
            result = export(SOURCE, targets, out, **{"report": False, **options})
        with Bundle.open(out) as bundle:
            manifest = bundle.manifest
        artifacts = {a.target: a for a in manifest.graphs[0].artifacts}
        return SimpleNamespace(
            path=out, result=result, manifest=manifest, artifact=artifacts.__getitem__
        )

    return make


@pytest.fixture(scope="session")
def everywhere(exported: Callable) -> SimpleNamespace:
    """The tiny network on all five targets, with a report."""
    return exported(report=True)
