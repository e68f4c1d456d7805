"""``edgekit devices`` and ``export --device``: what is shown, filled in, and recorded."""

import json
import tomllib

import pytest

from edgekit.bundle import Bundle
from edgekit.devices import doctor, profiles

from ..conftest import REPOSITORY

NETS = REPOSITORY / "tests" / "export" / "nets.py"
LINEAR = f"{NETS}:linear"

BOARD = """
name = "board"
title = "A board"
kind = "board"
memory_bytes = 1_000_000_000
accelerators = [{ kind = "gpu", name = "Orin", compute_capability = "8.7" }]
export = { targets = ["onnx"], precision = "fp16", threads = 3, why = "a test" }
sources = [{ what = "nothing", where = "nowhere" }]
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "board.toml").write_text(BOARD)
    return tmp_path


def test_the_list(edgekit):
    document = edgekit("devices", "--json").document
    assert [one["name"] for one in document["devices"]] == profiles.names()
    people = edgekit("devices")
    assert (people.code, people.err) == (0, "")
    for word in ("rpi5", "4 x Cortex-A76 at 2.40 GHz", "8 GiB", "onnx, openvino, executorch"):
        assert word in people.out


def test_one_with_its_sources(edgekit):
    document = edgekit("devices", "jetson-orin-nano", "--json").document["device"]
    assert document["export"]["targets"] == ["tensorrt", "onnx"]
    assert document["accelerators"][0]["compute_capability"] == "8.7"
    assert any("edgekit build" in note for note in document["notes"])
    people = edgekit("devices", "jetson-orin-nano", "--quiet").out
    for word in ("6 x Cortex-A78AE", "fp16", "compute capability 8.7", "data sheet", "source:"):
        assert word in people


def test_each_figure_has_its_source_in_the_list_and_alone(edgekit):
    people = edgekit("devices").out
    assert "https://www.raspberrypi.com/documentation/computers/processors.html" in people
    assert "cores, clock, bandwidth" in people
    alone = edgekit("devices", "rpi5").out
    for words in (
        "8 GiB at up to 17.0 GB/s",
        "glibc 2.36, Python 3.11",
        "(cores, clock, bandwidth)",
    ):
        assert words in alone
    assert "none is given" not in alone
    assert "of memory none is given" in edgekit("devices", "board.toml").out


def test_a_file_is_shown_like_the_others(edgekit):
    assert edgekit("devices", "board.toml", "--json").document["device"]["title"] == "A board"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rpi6"], 2, "the nearest are rpi5, rpi4"),
        (["rpi5", "-o", "x.toml"], 2, "only a probe is written"),
        (["-o", "x.toml"], 2, "only a probe is written"),
        (["probe", "-o", "x.txt"], 2, "x.txt is no name of a profile"),
        (["probe", "-o", "gone/x.toml"], 2, "there is no folder gone"),
        (["gone.toml"], 8, "gone.toml cannot be read"),
        (["broken.toml"], 8, "broken.toml is not valid: export.treads: there is no such key"),
    ],
)
def test_what_cannot_be_shown(edgekit, place, arguments, code, words):
    (place / "broken.toml").write_text(BOARD.replace("threads", "treads"))
    done = edgekit("devices", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.fixture
def quick_doctor(monkeypatch):
    """Two back ends instead of six, which take some ten seconds."""
    examine = doctor.examine
    names = ("onnxruntime", "openvino")
    monkeypatch.setattr(
        doctor,
        "examine",
        lambda backends, advance: examine([b for b in backends if b.name in names], advance),
    )


def test_a_probe_writes_what_export_takes(edgekit, place, quick_doctor):
    pytest.importorskip("onnxscript")
    done = edgekit("devices", "probe", "-o", "me.toml", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.document["file"] == "me.toml"
    assert sorted(path.name for path in place.iterdir()) == ["board.toml", "me.toml"]
    one = profiles.profile("me.toml")
    assert json.loads(one.model_dump_json()) == {
        **done.document["device"],
        "notes": list(one.notes),
    }
    assert "onnx" in one.export.targets
    assert one.measured.memory_bandwidth > 1e8
    assert "copies memory at" in edgekit("devices", "me.toml").out
    made = edgekit("export", LINEAR, "--device", "me.toml", "--no-report", "--json", "-o", "b")
    assert made.code == 0, made.err
    assert [t["target"] for t in made.document["targets"]] == list(one.export.targets)
    assert made.document["device"]["threads"] == one.export.threads


def test_a_probe_without_a_file_is_printed(edgekit, quick_doctor):
    done = edgekit("devices", "probe", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert tomllib.loads(done.out)["export"]["threads"] >= 1
    assert profiles.parse(done.out.encode(), "stdout").export.targets


class TestExport:
    """``export --device`` fills in what is not said, and the bundle says for what it is."""

    @pytest.fixture(autouse=True)
    def _exporter(self):
        pytest.importorskip("torch")
        pytest.importorskip("onnxscript")

    def test_defaults_of_the_device(self, edgekit):
        done = edgekit("export", LINEAR, "--device", "board.toml", "--no-report", "--json")
        assert done.code == 0, done.err
        hint = {"name": "board", "runtimes": ["onnxruntime"], "threads": 3}
        assert done.document["device"] == hint
        assert (done.document["bundle"], done.document["precision"]) == ("linear-fp16", "fp16")
        assert [target["target"] for target in done.document["targets"]] == ["onnx"]
        assert done.err.splitlines()[0] == "for A board: onnx in fp16, 3 threads"
        assert edgekit("inspect", "linear-fp16", "--json").document["device"] == hint
        assert "made for:   board: onnxruntime, 3 threads" in edgekit("inspect", "linear-fp16").out
        with Bundle.open("linear-fp16") as bundle:
            assert bundle.manifest.device.model_dump(mode="json") == hint

    def test_a_recipe_has_a_plan_of_memory_beside_the_devices_own(self, edgekit, place):
        pytest.importorskip("tensorrt_rtx")
        done = edgekit("export", LINEAR, "--device", "jetson-orin-nano", "--no-report", "--json")
        assert done.code == 0, done.err
        (row,) = done.document["memory"]
        assert (row["graph"], row["target"], row["fits"]) == ("forward", "tensorrt", True)
        assert row["device_bytes"] == profiles.profile("jetson-orin-nano").memory_bytes
        recipe = place / "linear-fp16/graphs/forward/tensorrt/recipe.json"
        plan = json.loads(recipe.read_text())["memory"]
        onnx_file = recipe.with_name("model.onnx")
        assert plan["weights_bytes"] == onnx_file.stat().st_size
        assert plan == {key: row[key] for key in plan}
        assert "memory of NVIDIA Jetson Orin Nano, 8 GB: forward on tensorrt asks for" in done.err

    def test_what_the_user_says_wins(self, edgekit):
        done = edgekit(
            *("export", LINEAR, "--device", "rpi5", "--target", "onnx", "--precision", "fp16"),
            *("--no-report", "--json"),
        )
        assert done.code == 0, done.err
        assert done.document["precision"] == "fp16"
        assert [target["target"] for target in done.document["targets"]] == ["onnx"]
        assert done.document["device"] == {
            "name": "rpi5",
            "runtimes": ["onnxruntime", "openvino", "executorch"],
            "threads": 4,
        }

    def test_all_targets_stay_all(self, edgekit):
        done = edgekit(
            "export", LINEAR, "--device", "board.toml", "--target", "all", "--no-report", "--json"
        )
        assert len(done.document["targets"]) == 5
        assert "run edgekit build BUNDLE on it once" in done.err

    def test_without_a_device_nothing_changes(self, edgekit, place):
        done = edgekit("export", LINEAR, "--no-report", "--json")
        assert (done.document["bundle"], done.document["device"]) == ("linear", None)
        assert [target["target"] for target in done.document["targets"]] == ["onnx"]
        assert "device" not in json.loads((place / "linear" / "manifest.json").read_text())
        assert "made for" not in edgekit("inspect", "linear").out

    def test_an_unknown_device_is_said_before_anything_is_loaded(self, edgekit, place):
        done = edgekit("export", "nowhere.py:net", "--device", "rpi6")
        assert done.code == 2
        assert "there is no device 'rpi6'" in done.err
        (place / "broken.toml").write_text("name = 1")
        assert edgekit("export", "nowhere.py:net", "--device", "broken.toml").code == 8

    @pytest.mark.slow
    @pytest.mark.parametrize("name", profiles.names())
    def test_the_defaults_of_every_device_export_here(self, edgekit, name):
        one = profiles.profile(name)
        done = edgekit(
            *("export", "cpubone-nano", "--resolution", "64", "--device", name),
            *("--no-report", "--json", "-o", "out"),
        )
        lacking = [t for t in done.document["targets"] if t["status"] == "unavailable"]
        if lacking:
            pytest.skip(lacking[0]["reason"])
        assert done.code == 0, done.err
        assert [t["target"] for t in done.document["targets"]] == list(one.export.targets)
        assert all(t["status"] == "ok" for t in done.document["targets"])
        assert done.document["precision"] == one.export.precision
        with Bundle.open("out") as bundle:
            assert bundle.manifest.device == one.hint()
