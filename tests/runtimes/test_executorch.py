"""What is particular to ExecuTorch."""

import subprocess
import sys

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import BundleError
from edgekit.manifest import Artifact
from edgekit.runtimes import load


@pytest.fixture
def path(runtime_bundle):
    return runtime_bundle("executorch")


def test_sessions_of_different_numbers_of_threads_take_turns(path, classifier, image):
    from executorch.extension.pybindings import portable_lib

    count = portable_lib._threadpool_get_thread_count
    with (
        Bundle.open(path) as bundle,
        load(bundle, "executorch", threads=1) as one,
        load(bundle, "executorch", threads=2) as two,
    ):
        for session, threads in ((one, 1), (two, 2), (two, 2), (one, 1), (two, 2)):
            outputs = session.run({"image": image})
            assert count() == threads
            np.testing.assert_allclose(outputs["logits"], classifier(image), rtol=1e-4, atol=1e-5)


def test_a_session_never_runs_on_a_pool_that_is_gone(path, image):
    """Loaded with two threads; the pool was made anew twice since and has two again."""
    with (
        Bundle.open(path) as bundle,
        load(bundle, "executorch", threads=2) as session,
        load(bundle, "executorch", threads=1) as other,
        load(bundle, "executorch", threads=2) as third,
    ):
        before = session._method
        for each in (other, third, session):
            each.run({"image": image})
        assert session._method is not before
        kept = session._method
        session.run({"image": image})
        assert session._method is kept


def test_a_program_without_the_method(pte_bytes, make_bundle):
    file = "graphs/forward/executorch/model.pte"
    assert pte_bytes.count(b"forward\0") == 1
    path = make_bundle(
        {file: pte_bytes.replace(b"forward\0", b"onwards\0")},
        Artifact(target="executorch", status="ok", file=file),
    )
    with pytest.raises(BundleError, match="no method 'forward'"):
        load(path, "executorch")


def test_it_is_quiet(path):
    """The library announces processors, thread pools and experiments on stderr."""
    program = (
        "import sys, numpy as np\n"
        "from edgekit.runtimes import load\n"
        "x = np.zeros((1, 3, 32, 32), np.float32)\n"
        "with load(sys.argv[1], 'executorch', threads=1) as session:\n"
        "    print(session.run({'image': x})['logits'].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("(1, 4)\n", "", 0)
