"""The doctor tries real back ends, and survives broken ones."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest

from edgekit.devices import doctor, probes
from edgekit.devices.jetson import Jetson

CORE = next(backend for backend in doctor.BACKENDS if backend.core)


def test_every_back_end_has_a_probe_and_advice():
    assert {backend.name for backend in doctor.BACKENDS} == set(probes.PROBES)
    assert all(backend.install.startswith("pip install ") for backend in doctor.BACKENDS)


def test_onnxruntime_works_here():
    found = doctor.diagnose(CORE)
    assert (found.status, found.install) == ("ok", "")
    assert "CPU" in found.devices
    assert found.version


def test_what_is_not_installed_is_missing_and_not_imported():
    found = doctor.diagnose(doctor.Backend("x", "no_such_module_here", "tests", "pip install x"))
    assert (found.status, found.install) == ("missing", "pip install x")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_broken_library_is_a_row(tmp_path, monkeypatch, source, reason):
    (tmp_path / "onnxruntime.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.diagnose(CORE)
    assert found.status == "broken"
    assert found.detail == reason
    assert found.install == CORE.install


def test_a_library_that_hangs_is_a_row(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.diagnose(CORE, timeout=1)
    assert (found.status, found.detail) == ("broken", "no answer in 1 s")


def test_rows_come_in_the_order_asked_and_progress_is_told():
    names = ["no_such_module_a", "no_such_module_b", "no_such_module_c"]
    backends = [doctor.Backend(name, name, "tests", "pip install it") for name in names]
    done = []
    found = doctor.examine(backends, lambda: done.append(1))
    assert [diagnosis.name for diagnosis in found] == names
    assert len(done) == 3


def test_the_model_written_by_hand_is_a_valid_one():
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(probes.relu_model())
    onnx.checker.check_model(model, full_check=True)
    from onnx.reference import ReferenceEvaluator

    (y,) = ReferenceEvaluator(model).run(None, {"x": np.array([-1, 2], np.float32)})
    assert y.tolist() == [0, 2]


def test_gpus_are_those_that_the_driver_shows(tmp_path):
    """Against a driver of our own with CUDA's signatures: there is no GPU to ask."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "driver.c").write_text("""
        #include <string.h>
        int cuInit(unsigned flags) { return flags != 0; }
        int cuDeviceGetCount(int *count) { *count = 2; return 0; }
        int cuDeviceGetName(char *name, int size, int device) {
            strncpy(name, device ? "Second" : "First", size); return 0; }
        int cuDeviceGetAttribute(int *value, int attribute, int device) {
            *value = attribute == 75 ? 8 : attribute == 76 ? 6 + device : -1; return 0; }
    """)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    program = "from edgekit.devices.probes import gpus; print(gpus())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"LD_LIBRARY_PATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['First (SM 86)', 'Second (SM 87)']\n"


def test_what_stands_in_for_an_absent_module_is_tried():
    absent = doctor.Backend("onnxruntime", "no_such_module", "run", "pip install it")
    assert doctor.diagnose(absent).status == "missing"
    found = doctor.diagnose(dataclasses.replace(absent, instead="onnxruntime"))
    assert (found.status, found.install) == ("ok", "")


def test_on_a_jetson_tensorrt_is_the_systems(monkeypatch):
    backend = doctor.Backend("tensorrt", "no_such_module", "run", "pip install tensorrt")
    assert doctor.diagnose(backend).install == "pip install tensorrt"
    monkeypatch.setattr(doctor, "jetson", lambda: Jetson("R39.2.0", "7.2"))
    assert "sudo apt-get install nvidia-jetpack" in doctor.diagnose(backend).install
    other = dataclasses.replace(backend, name="openvino")
    assert doctor.diagnose(other).install == "pip install tensorrt"
