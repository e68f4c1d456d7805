"""The native ExecuTorch runner: compiled here, run where torch cannot be imported."""

import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

from edgekit.devices import native_runner
from edgekit.errors import MissingBackendError
from edgekit.manifest import Artifact
from edgekit.runtimes import registry

MACHINE = "x86_64"

# What is compiled is run in a process that has neither torch nor ExecuTorch's Python.
PROGRAM = """
import sys
import numpy as np

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "executorch"}:
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, Forbid())
sys.path.insert(0, sys.argv[1])
from edgekit.errors import EdgekitError
from edgekit.runtimes import available, load
from edgekit.runtimes.sessions.executorch_native import NativeExecuTorchSession

bundle = sys.argv[2]
assert available(bundle) == ["executorch"], available(bundle)
try:
    %s
except EdgekitError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
assert not {"torch", "executorch"} & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The folder that the runner's wheel is unpacked in, as pip would."""
    executorch = native_runner.installed(MACHINE)
    if executorch is None:
        pytest.skip(f"executorch {native_runner.EXECUTORCH} for {MACHINE} is not installed")
    try:
        native_runner.compiler(MACHINE)
    except MissingBackendError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("runner")
    wheel = native_runner.runner_wheel(executorch, MACHINE).write(folder)
    assert wheel.name == "edgekit_toolkit_executorch-1.5.1-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def without_torch(library):
    def run(bundle, body, *arguments):
        code = PROGRAM % textwrap.indent(textwrap.dedent(body).strip(), "    ").strip()
        return subprocess.run(
            [sys.executable, "-c", code, library, bundle, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_answers_as_the_network_does(without_torch, runtime_bundle, classifier, image, tmp_path):
    np.save(tmp_path / "image.npy", image)
    done = without_torch(
        runtime_bundle("executorch"),
        """
        image = np.load(sys.argv[3])
        with load(bundle, threads=1) as one, load(bundle, threads=2) as two:
            assert type(one) is NativeExecuTorchSession
            first = one.run({"image": image})["logits"]
            # Sessions of different numbers of threads take turns, each on a pool that is alive.
            for session, threads in ((two, 2), (one, 1), (two, 2)):
                np.testing.assert_array_equal(session.run({"image": image})["logits"], first)
                assert session._library.edgekit_threads(0) == threads
            one.run({"image": -image})
            strided = np.asfortranarray(image)
            np.testing.assert_array_equal(one.run({"image": strided})["logits"], first)
            sink = np.empty((1, 4), np.float32)
            one.bind({"image": image}, {"logits": sink})()
            np.testing.assert_array_equal(sink, first)
            np.save(sys.argv[4], first)
        """,
        tmp_path / "image.npy",
        tmp_path / "logits.npy",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, classifier(image), rtol=1e-4, atol=1e-5)


FILE = "graphs/forward/executorch/model.pte"


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda data: data.replace(b"forward\0", b"onwards\0"), 7, "has no method 'forward'"),
        (lambda data: data[: len(data) // 2], 7, "executorch refuses"),
        (lambda data: b"this is no program", 7, "executorch refuses"),
    ],
)
def test_a_program_that_it_cannot_load(without_torch, pte_bytes, make_bundle, damage, code, words):
    bundle = make_bundle(
        {FILE: damage(pte_bytes)}, Artifact(target="executorch", status="ok", file=FILE)
    )
    done = without_torch(bundle, "load(bundle).close()")
    assert (done.returncode, done.stderr) == (code, "")
    assert words in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_closed_session_says_so(without_torch, runtime_bundle):
    body = """
    session = load(bundle)
    session.close()
    session.close()
    session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})
    """
    done = without_torch(runtime_bundle("executorch"), body)
    assert (done.returncode, done.stderr) == (2, "")
    assert "this session is closed" in done.stdout


def test_the_session_with_torch_is_preferred(monkeypatch):
    runtime = registry.get("executorch")
    here = {"executorch", "torch", "edgekit_executorch"}
    monkeypatch.setattr(registry, "_installed", lambda name: name in here)
    assert registry.session_class(runtime).__name__ == "ExecuTorchSession"
    here.remove("torch")
    assert registry.missing(runtime) is None
    assert registry.session_class(runtime).__name__ == "NativeExecuTorchSession"
    here.remove("edgekit_executorch")
    assert "torch is not installed" in str(registry.missing(runtime))


def test_a_library_that_does_not_load_is_a_missing_back_end(tmp_path, monkeypatch):
    from edgekit.runtimes.sessions import executorch_native as native

    package = tmp_path / native.PACKAGE
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "lib" / native.LIBRARY).write_bytes(b"no library")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, native.PACKAGE, raising=False)
    native.load_library.cache_clear()
    try:
        with pytest.raises(MissingBackendError, match="edgekit pack"):
            native.load_library()
    finally:
        sys.modules.pop(native.PACKAGE, None)
        native.load_library.cache_clear()


def test_another_machine_needs_its_compiler(monkeypatch):
    monkeypatch.setattr(native_runner.shutil, "which", lambda name: None)
    with pytest.raises(MissingBackendError, match="g\\+\\+-aarch64-linux-gnu"):
        native_runner.compiler("aarch64")
    with pytest.raises(MissingBackendError, match="no C\\+\\+ compiler for riscv64"):
        native_runner.compiler("riscv64")
