"""What is measured of this machine is of its order, and what cannot be measured is not made up."""

import os

import pytest

from edgekit.devices import machine_speed
from edgekit.devices.jetson import ADVICE, Jetson, jetson

SMALL = 8 << 20


def test_memory_is_copied_faster_than_any_disk_and_slower_than_light():
    found = machine_speed.copy_bandwidth(1, 64 << 20)
    assert 1e8 < found < 1e13
    assert 1e8 < machine_speed.copy_bandwidth(2, 64 << 20) < 1e13


def test_the_disk_is_written_and_read_and_left_clean(tmp_path):
    if machine_speed._in_memory(tmp_path):
        pytest.skip("the tests' folder is in memory")
    write, read = machine_speed.disk_bandwidth(tmp_path, SMALL)
    assert 1e5 < write < 1e11
    assert 1e5 < read < 1e12
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_disk_is_not_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert machine_speed.disk_bandwidth(tmp_path / "file", SMALL) == (None, None)
    full = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert machine_speed.disk_bandwidth(tmp_path, full) == (None, None)
    monkeypatch.setattr(machine_speed, "_in_memory", lambda folder: True)
    assert machine_speed.disk_bandwidth(tmp_path, SMALL) == (None, None)


@pytest.mark.parametrize(
    ("text", "held"),
    [("0", False), ("0x0\n", False), ("0x50000", False), ("50005", True), ("4", True)],
)
def test_a_raspberry_pi_says_whether_it_is_held_back(tmp_path, text, held):
    (tmp_path / "get_throttled").write_text(text)
    assert machine_speed.throttled(tmp_path / "get_throttled", tmp_path) is held


def test_cooling_devices_say_it_elsewhere(tmp_path):
    absent = tmp_path / "get_throttled"
    assert machine_speed.throttled(absent, tmp_path) is None
    for number, (kind, state) in enumerate([("Processor", 0), ("pwm-fan", 3), ("cpufreq-cpu0", 0)]):
        device = tmp_path / f"cooling_device{number}"
        device.mkdir()
        (device / "type").write_text(kind + "\n")
        (device / "cur_state").write_text(f"{state}\n")
    assert machine_speed.throttled(absent, tmp_path) is False
    (tmp_path / "cooling_device2/cur_state").write_text("2\n")
    assert machine_speed.throttled(absent, tmp_path) is True


RELEASE = "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64\n"
STATUS = """Package: nvidia-jetpack-dev
Status: install ok installed
Version: 1.1

Package: nvidia-jetpack
Status: install ok installed
Architecture: arm64
Version: 6.2.1+b38

Package: zlib1g
Version: 1.2
"""


def test_a_jetson_says_which_jetpack_it_has(tmp_path):
    assert jetson(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(RELEASE)
    assert str(jetson(tmp_path)) == "L4T R36.4.7"
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    assert jetson(tmp_path) == Jetson("R36.4.7", "6.2.1")
    assert str(jetson(tmp_path)) == "JetPack 6.2.1 (L4T R36.4.7)"
    assert "PyPI has no wheels" in ADVICE
