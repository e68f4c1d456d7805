"""The core alone, installed as a device gets it: no torch, no exporter, and everything works."""

import json
import os
import shutil
import subprocess
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from .conftest import REPOSITORY

pytestmark = pytest.mark.slow

LEAVE_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist", "bundles", "tests", "docs")


@dataclass
class Device:
    """An environment with the core only, and a bundle that came from elsewhere."""

    bin: Path
    home: Path
    bundle: Path
    photo: Path

    def __call__(self, *command, code=0):
        """Run a program of the environment; its standard output."""
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.home,
            env={**os.environ, "EDGEKIT_HOME": str(self.home / "edgekit")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if not code else done.stderr

    def document(self, *command):
        return json.loads(self("edgekit", *command, "--json"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from edgekit.export import export

    out = tmp_path_factory.mktemp("host") / "nano.edgekit"
    export("cpubone-nano", targets=["onnx"], out=out, resolution=(64, 64)).raise_for_status()
    return out


@pytest.fixture(scope="module")
def device(tmp_path_factory, bundle):
    home = tmp_path_factory.mktemp("device")
    venv.create(home / "venv", with_pip=True)
    pip = [home / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    fetched = subprocess.run(
        [*pip, "-c", REPOSITORY / "constraints.txt", *needed],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        pytest.skip(f"pip cannot download here: {fetched.stderr.strip().splitlines()[-1]}")
    # From a copy, because building leaves folders in the source.
    source = home / "source"
    shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(*LEAVE_OUT))
    built = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    shutil.rmtree(source)
    photo = home / "photo.jpg"
    Image.effect_mandelbrot((160, 120), (-2, -1, 1, 1), 50).convert("RGB").save(photo)
    return Device(home / "venv/bin", home, bundle, photo)


def test_torch_is_not_there(device):
    absent = "import importlib.util as u; print([m for m in {} if u.find_spec(m)])"
    modules = ["torch", "onnx", "onnxscript", "openvino", "executorch", "coremltools"]
    assert device("python", "-c", absent.format(modules)) == "[]\n"


def test_a_photograph_is_labelled(device):
    document = device.document("run", device.bundle, device.photo)
    (answer,) = document["results"]
    assert answer["runtime"] == "onnxruntime"
    assert len(answer["result"]["top"]) == 5


def test_the_bundle_is_judged(device):
    document = device.document("verify", device.bundle)
    (artifact,) = document["artifacts"]
    assert document["passed"]
    assert artifact["verify"]["level"] == "ran"
    assert artifact["verify"]["metrics"]["nmse"] < 1e-9


def test_the_bundle_is_shown(device):
    assert device.document("inspect", device.bundle)["checksums"] == "ok"


def test_the_bundle_is_measured(device):
    document = device.document("bench", device.bundle, "--repeat", "3", "--threads", "1")
    assert [row["runtime"] for row in document["rows"]] == ["onnxruntime"]
    assert {one["runtime"] for one in document["unavailable"]} >= {"openvino", "executorch"}


def test_the_registry_is_listed(device):
    names = [row["name"] for row in device.document("models")["models"]]
    assert "cpubone-b0" in names


def test_the_doctor_says_what_is_missing(device):
    found = {one["name"]: one for one in device.document("doctor")["backends"]}
    assert found["onnxruntime"]["status"] == "ok"
    assert found["torch"]["status"] == "missing"
    assert found["torch"]["install"] == 'pip install "edgekit-toolkit[export]"'


def test_the_device_profiles_came_along(device):
    names = [one["name"] for one in device.document("devices")["devices"]]
    assert {"rpi5", "rtx4080"} <= set(names)
    probed = device.document("devices", "probe", "-o", "me.toml")["device"]
    assert probed["export"]["targets"] == ["onnx"]
    assert (device.home / "me.toml").is_file()


def test_an_export_says_what_to_install(device):
    said = device("edgekit", "export", "cpubone-nano", "-o", "out", code=3)
    assert said == (
        "error: the exporter is not installed: no module torch."
        ' Next: pip install "edgekit-toolkit[export]"\n'
    )
    assert not (device.home / "out").exists()


@pytest.mark.parametrize("option", [("--samples", "."), ("--locate",)])
def test_judging_against_the_network_says_what_to_install(device, option):
    said = device("edgekit", "verify", device.bundle, *option, code=3)
    assert said.count("\n") == 1
    assert 'pip install "edgekit-toolkit[export]"' in said
