"""The profile of this machine says what the system and the doctor say."""

import json
import os
from pathlib import Path

import psutil
import pytest

from edgekit.devices import cpuinfo, doctor, host, profiles, this_machine
from edgekit.devices.jetson import Jetson
from edgekit.devices.profile_toml import to_toml

MEASURED = profiles.Measured(memory_bandwidth=20_000_000_000, memory_threads=2, throttled=False)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """``machine(works=…, gpus=…)`` probes as if these back ends and GPUs were here."""

    def make(
        works=("onnxruntime",),
        gpus=(),
        cpuinfo_text=None,
        board=None,
        battery=None,
        board_software=None,
    ):
        def examine(backends, advance):
            found = []
            for backend in backends:
                advance()
                status = "ok" if backend.name in works else "limited"
                found.append(doctor.Diagnosis(backend.name, status, backend.purpose))
            return found

        monkeypatch.setattr(doctor, "examine", examine)
        monkeypatch.setattr(this_machine.machine_speed, "measure", lambda: MEASURED)
        monkeypatch.setattr(this_machine, "jetson", lambda: board_software)
        monkeypatch.setattr(this_machine, "gpus", lambda: list(gpus))
        monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
        for constant, text in (("_CPUINFO", cpuinfo_text), ("_BOARD", board)):
            place = tmp_path / constant
            if text is not None:
                place.write_text(text)
            if text is not None or constant == "_BOARD":
                monkeypatch.setattr(this_machine, constant, place)
        return this_machine.probe()

    return make


def test_it_is_what_the_system_says(machine):
    one = machine(works=("onnxruntime", "executorch", "openvino"))
    assert one.memory_bytes == psutil.virtual_memory().total
    assert one.export.targets == ("openvino", "onnx", "executorch")
    assert (one.export.precision, one.export.threads) == ("fp32", host.physical_cores())
    assert sum(cores.count for cores in one.processor.cores) == host.physical_cores()
    assert one.accelerators == ()
    assert profiles.parse(to_toml(one).encode(), "probe") == one
    flags = Path("/proc/cpuinfo").read_text().split()
    assert ("avx2" in one.processor.isa) == ("avx2" in flags)


def test_what_was_measured_and_the_system_are_in_the_file(machine):
    one = machine()
    assert one.measured == MEASURED
    assert (one.system is None) == (os.uname().machine not in ("x86_64", "aarch64"))
    assert all(one.source_of(figure) for figure in one.figures())
    assert profiles.parse(to_toml(one).encode(), "probe") == one


def test_a_jetson_is_told_what_to_use_in_place_of_wheels(machine):
    software = Jetson("R39.2.0", "7.2")
    (note,) = machine(board_software=software).notes
    assert "TensorRT is not found. Next: sudo apt-get install nvidia-jetpack" in note
    (note,) = machine(works=("onnxruntime", "tensorrt"), board_software=software).notes
    assert "through the TensorRT of JetPack 7.2 (L4T R39.2.0)" in note
    assert "JetPack 7.2" in machine(board_software=software).system.os


def test_no_more_cores_than_this_process_may_use(machine):
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine().export.threads == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("shown", "name", "capability"),
    [
        ("NVIDIA GeForce RTX 4080 (SM 89)", "NVIDIA GeForce RTX 4080", "8.9"),
        ("NVIDIA GeForce RTX 5090 (SM 120)", "NVIDIA GeForce RTX 5090", "12.0"),
        ("Orin (nvgpu)", "Orin (nvgpu)", None),
    ],
)
def test_a_gpu_with_a_working_tensorrt_comes_first(machine, shown, name, capability):
    one = machine(works=("onnxruntime", "tensorrt"), gpus=[shown])
    (gpu,) = one.accelerators
    assert (gpu.name, gpu.compute_capability) == (name, capability)
    assert one.export.targets == ("tensorrt", "onnx")
    assert one.export.precision == "fp16"


def test_a_gpu_that_nothing_works_on_is_told_and_not_used(machine):
    one = machine(gpus=["NVIDIA L4 (SM 89)"])
    assert one.accelerators[0].compute_capability == "8.9"
    assert (one.export.targets, one.export.precision) == (("onnx",), "fp32")


def test_where_nothing_works_a_profile_is_written_all_the_same(machine):
    assert machine(works=()).export.targets == ("onnx",)


def test_bf16_is_pointed_out_where_openvino_can_use_it(machine):
    flags = "processor\t: 0\nflags\t\t: avx2 avx512f avx512_bf16\n"
    core = min(os.sched_getaffinity(0))
    text = flags.replace(": 0", f": {core}")
    assert "bf16" in machine(works=("openvino",), cpuinfo_text=text).notes[0]
    assert machine(works=("onnxruntime",), cpuinfo_text=text).notes == ()


def test_kinds_of_machines(machine):
    assert machine().kind == "computer"
    assert machine(battery=object()).kind == "laptop"
    assert machine(board="Raspberry Pi 5 Model B Rev 1.0\0").kind == "board"


def test_the_name_is_one_that_a_profile_may_have(machine, monkeypatch):
    monkeypatch.setattr(this_machine, "processor_name", lambda: "AMD Ryzen(TM) 9 7950X @ 4.5GHz")
    one = machine()
    assert (one.name, one.title) == ("amd-ryzen-9-7950x", "AMD Ryzen 9 7950X")
    monkeypatch.setattr(this_machine, "processor_name", lambda: "龍芯")
    assert machine().name == "this-machine"


def test_what_is_tried_is_known_to_the_doctor():
    assert {b.name for b in this_machine.BACKENDS} == set(this_machine._RUNS)
    assert json.dumps(list(cpuinfo.EXTENSIONS))
