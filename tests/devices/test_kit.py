"""``edgekit pack``: what is in a kit, and that it installs and verifies without a network."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.devices import core_wheel, kit, kit_wheels, profiles
from edgekit.errors import DeviceError

from ..conftest import REPOSITORY
from .gain_bundle import gain_bundle

pytest.importorskip("onnx")

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
EXPORTERS = ("torch", "onnx", "executorch", "openvino", "coremltools")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A kit for this machine's Python, as a folder; and the bundle in it."""
    if platform.machine() != "x86_64":
        pytest.skip("no x86")
    folder = tmp_path_factory.mktemp("kit")
    bundle, out = gain_bundle(folder, 2), folder / "kit"
    try:
        with Bundle.open(bundle) as opened:
            profile = profiles.profile(kit.ALIASES["x86"])
            made = kit.pack(opened, profile, out, PYTHON)
    except DeviceError as error:
        pytest.skip(f"pip cannot download here: {error.why}")
    return made, out


def install(out, place, *, python=None):
    """Run the kit's script as a device would: no network, nothing of ours on its path."""
    offline = ["unshare", "-rn"]
    if subprocess.run([*offline, "true"], check=False, capture_output=True).returncode:
        offline = []  # no such right here: the script itself asks for no index
    path = f"{python or Path(os.path.realpath(sys.executable)).parent}:/usr/bin:/bin"
    return subprocess.run(
        [*offline, "/bin/sh", out / "install.sh", place],
        env={"PATH": path, "HOME": str(place), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_in_a_kit(packed):
    made, out = packed
    assert (made.name, made.device, made.machine) == ("gain-2", "x86-laptop", "x86_64")
    assert made.runtimes == ("onnxruntime",)
    assert json.loads((out / "kit.json").read_text())["digest"] == made.digest
    listed = dict(
        reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
    )
    files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert set(listed) == set(files) - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest
    names = {name.partition("-")[0].lower() for name in made.wheels}
    assert {"edgekit_toolkit", "numpy", "onnxruntime"} <= names
    assert not names & set(EXPORTERS)
    tops = set()
    for wheel in (out / "wheels").iterdir():
        with zipfile.ZipFile(wheel) as archive:
            tops |= {name.partition("/")[0] for name in archive.namelist()}
    assert not tops & set(EXPORTERS)
    with Bundle.open(out / "gain-2.edgekit") as bundle:
        assert bundle.digest == made.digest
    unit = (out / "edgekit-gain-2.service").read_text()
    assert "verify --quiet @PLACE@/gain-2/current.edgekit" in unit  # the script knows the place
    assert "@NAME@" not in unit + (out / "install.sh").read_text()


def test_it_installs_without_a_network_and_keeps_what_was_there(packed, tmp_path):
    _, out = packed
    place = tmp_path / "place"
    (place / "gain-2").mkdir(parents=True)
    (place / "gain-2/current.edgekit").write_text("an earlier one")
    done = install(out, place)
    assert done.returncode == 0, done.stderr
    assert f"bundle:    {place}/gain-2/current.edgekit" in done.stdout
    python, edgekit = place / "venv/bin/python", place / "venv/bin/edgekit"
    absent = f"import importlib.util as u; print([m for m in {EXPORTERS} if u.find_spec(m)])"
    assert subprocess.check_output([python, "-c", absent], text=True) == "[]\n"
    said = subprocess.check_output(
        [edgekit, "verify", place / "gain-2/current.edgekit", "--json"],
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    (artifact,) = json.loads(said)["artifacts"]
    assert artifact["verify"]["level"] == "ran"
    unit = (place / "gain-2/edgekit-gain-2.service").read_text()
    assert f"ExecStart={edgekit} verify --quiet {place}/gain-2/current.edgekit" in unit
    assert (place / "gain-2/previous.edgekit").read_text() == "an earlier one"
    names = sorted(path.name for path in (place / "gain-2").iterdir())
    assert names == ["current.edgekit", "edgekit-gain-2.service", "previous.edgekit"]


def test_a_damaged_kit_and_another_python_are_refused_in_one_line(packed, tmp_path):
    _, out = packed
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python3").write_text("#!/bin/sh\necho '3.9 x86_64'\n")
    (bare / "python3").chmod(0o755)
    for name in ("sh", "id", "dirname", "mkdir", "sha256sum", "cat", "true", "unshare"):
        (bare / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        ["/bin/sh", out / "install.sh", tmp_path / "place"],
        env={"PATH": str(bare), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert f"this kit needs Python {PYTHON} x86_64: python3 is 3.9 x86_64" in done.stderr
    broken = tmp_path / "broken"
    shutil.copytree(out, broken)
    with (broken / "gain-2.edgekit").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"!")
    done = install(broken, tmp_path / "other")
    assert done.returncode == 7
    assert done.stderr.startswith("error: the kit in ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "other/venv").exists()


def test_the_wheel_of_edgekit_has_every_package_and_what_lies_in_it(tmp_path):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    with zipfile.ZipFile(core_wheel.core_wheel().write(tmp_path)) as archive:
        names = set(archive.namelist())
    for package in project["packages"]:
        assert f"{package.replace('.', '/')}/__init__.py" in names
    for package, patterns in project["package-data"].items():
        folder = package.replace(".", "/")
        for pattern in patterns:
            suffix = pattern.rpartition("*")[2]
            stem = pattern.rpartition("*")[0]
            assert any(n.startswith(f"{folder}/{stem}") and n.endswith(suffix) for n in names)
    assert not any("__pycache__" in name or name.startswith("edgekit/tests") for name in names)


def test_which_wheels_a_device_can_load():
    rpi5 = list(kit_wheels.platforms(profiles.profile("rpi5").system))
    assert rpi5[0] == "manylinux_2_36_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64"} <= set(rpi5)
    assert "manylinux_2_37_aarch64" not in rpi5


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--for", "iphone"], 2, "nothing is packed for Apple iPhone 13"),
        (["--for", "toaster"], 2, "there is no device 'toaster'"),
        (["--for", "rpi5", "--python", "3"], 2, "--python 3 is no version"),
        (["--for", "rpi5", "-o", "."], 2, "is there already"),
        (["--for", "rpi5", "-o", "gone/kit"], 2, "there is no folder gone"),
    ],
)
def test_what_cannot_be_packed(tmp_path, monkeypatch, capfd, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert main(["pack", str(gain_bundle(tmp_path, 2)), *words]) == code
    err = capfd.readouterr().err
    assert said in err
    assert err.splitlines()[-1].startswith("error: ")


def test_an_exporter_that_pip_brings_along_is_refused(tmp_path, monkeypatch):
    def bring(wanted, system, python, folder, *options):
        folder.mkdir(exist_ok=True)
        (folder / "torch-2.13.0-cp311-none-any.whl").touch()

    monkeypatch.setattr(kit_wheels, "_download", bring)
    system = profiles.profile("rpi5").system
    with Bundle.open(gain_bundle(tmp_path, 2)) as bundle, pytest.raises(DeviceError, match="torch"):
        kit_wheels.collect(bundle, system, "3.11", tmp_path / "wheels")


def test_an_archive_is_nobodys_and_of_no_time(tmp_path):
    root = tmp_path / "net-for-rpi5"
    root.mkdir()
    (root / "install.sh").write_text("true\n")
    kit._put(root, tmp_path / "kit.tar.gz")
    with tarfile.open(tmp_path / "kit.tar.gz") as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == ["net-for-rpi5", "net-for-rpi5/install.sh"]
    assert {(entry.uid, entry.uname, entry.mtime) for entry in entries} == {(0, "", 315532800)}
