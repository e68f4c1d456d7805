"""The profiles that ship say true and useful things; a broken one is told by its key."""

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.devices import cpuinfo, profiles
from edgekit.devices.profile_toml import to_toml
from edgekit.errors import InputError, UsageError
from edgekit.manifest import TARGETS
from edgekit.quant.precision import THRESHOLDS
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.tensorrt_build import CAPABILITIES

from ..conftest import REPOSITORY

SHIPPED = profiles.names()
OWN = """
name = "my-board"
title = "My board"
kind = "board"
memory_bytes = 1_000_000_000

[processor]
name = "SoC"
cores = [{ kind = "Cortex-A55", count = 4 }]

[export]
targets = ["openvino", "onnx"]
precision = "fp32"
threads = 2
why = "measured"

[[sources]]
what = "all of it"
where = "its data sheet"
"""


def test_the_promised_devices_are_there():
    promised = {"rpi4", "rpi5", "jetson-orin-nano", "jetson-agx-orin"}
    assert promised | {"pixel7-pro", "iphone", "x86-laptop", "rtx4080"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_fits_the_rest_of_the_product(name):
    one = profiles.profile(name)
    assert one.name == name
    assert set(one.export.targets) <= set(TARGETS)
    assert one.export.precision in THRESHOLDS
    hint = one.hint()
    assert (hint.name, hint.threads) == (name, one.export.threads)
    assert set(hint.runtimes) <= set(RUNTIMES)
    assert len(hint.runtimes) == len(one.export.targets)
    assert all("://" in source.where or "arXiv" in source.where for source in one.sources)
    if one.processor is not None:
        assert set(one.processor.isa) <= set(cpuinfo.EXTENSIONS.values())
        assert (one.export.threads or 1) <= sum(cores.count for cores in one.processor.cores)


def test_facts_that_decide_a_precision():
    isa = {name: profiles.profile(name).processor.isa for name in ("rpi4", "rpi5", "iphone")}
    assert "fp16" not in isa["rpi4"]
    assert "dotprod" not in isa["rpi4"]
    assert {"fp16", "dotprod"} <= set(isa["rpi5"])
    assert "bf16" not in isa["rpi5"]
    assert {"bf16", "i8mm"} <= set(isa["iphone"])
    gpus = {n: profiles.profile(n).accelerators[0] for n in ("rtx4080", "jetson-orin-nano")}
    assert gpus["rtx4080"].compute_capability == "8.9"
    assert gpus["jetson-orin-nano"].compute_capability == "8.7"


def test_what_is_not_compiled_ahead_is_to_be_built_on_the_device():
    for name in SHIPPED:
        one = profiles.profile(name)
        gpu = next((a.compute_capability for a in one.accelerators if a.compute_capability), None)
        told = any("edgekit build" in remark for remark in one.remarks())
        assert told == (gpu is not None and gpu not in CAPABILITIES)
    assert any("8.7" in remark for remark in profiles.profile("jetson-agx-orin").remarks())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rpi6", r"there is no device 'rpi6': the nearest are rpi5, rpi4\. Next: edgekit devices"),
        ("RPI5", "the nearest are rpi5"),
        ("toaster", "there are iphone, jetson-agx-orin"),
        ("", "there is no device ''"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, reason):
    with pytest.raises(UsageError, match=reason):
        profiles.profile(name)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(OWN)
    one = profiles.profile(str(path))
    assert one.export.targets == ("openvino", "onnx")
    assert one.hint().runtimes == ("openvino", "onnxruntime")
    assert one.remarks() == ()
    (tmp_path / "other").write_text(OWN)
    assert profiles.profile(str(tmp_path / "other")) == one


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("threads = 2", "treads = 2", "export.treads: there is no such key"),
        ("threads = 2", "threads = 0", "export.threads: Input should be greater than or equal"),
        ("threads = 2", 'threads = "2"', "export.threads: Input should be a valid integer"),
        ("threads = 2", "threads = true", "export.threads: Input should be a valid integer"),
        ('"fp32"', '"int8"', "export.precision: Input should be 'fp32', 'fp16' or 'bf16'"),
        ('["openvino", "onnx"]', "[]", "export.targets: "),
        ('["openvino", "onnx"]', '["onnx", "tflite"]', "export.targets.1: Input should be 'onnx'"),
        ('["openvino", "onnx"]', '["onnx", "onnx"]', "export.targets names a target twice"),
        ('"my-board"', '"My Board"', "name: 'My Board' is not of its form"),
        ('kind = "board"', "", "kind: it is missing"),
        ("memory_bytes = 1_000_000_000", "memory_bytes = 8e9", "memory_bytes: Input should be"),
        ("count = 4", "count = 4, clock = 1", "processor.cores.0.clock: there is no such key"),
        ('cores = [{ kind = "Cortex-A55", count = 4 }]', "cores = []", "processor.cores: "),
        ('title = "My board"', "title =", r"no TOML: Invalid value \(at line 3"),
        ('"SoC"', '"\udcff"', "no TOML: 'utf-8'"),
    ],
)
def test_a_broken_file_is_told_by_its_key(tmp_path, old, new, reason):
    assert OWN.count(old) == 1
    path = tmp_path / "board.toml"
    path.write_text(OWN.replace(old, new), errors="surrogateescape")
    with pytest.raises(InputError, match=f"board.toml is not valid: {reason}") as caught:
        profiles.profile(str(path))
    assert "\n" not in str(caught.value)


def test_neither_processor_nor_accelerator(tmp_path):
    start, end = OWN.index("[processor]"), OWN.index("[export]")
    with pytest.raises(InputError, match="neither a processor nor an accelerator"):
        profiles.parse((OWN[:start] + OWN[end:]).encode(), "x")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"gone\.toml cannot be read: No such file"):
        profiles.profile(str(tmp_path / "gone.toml"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        profiles.profile(f"{tmp_path}/")
    monkeypatch.setattr(profiles, "MAX_BYTES", 100)
    (tmp_path / "large.toml").write_text(OWN)
    with pytest.raises(InputError, match="larger than 100 bytes"):
        profiles.profile(str(tmp_path / "large.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_written_is_read_back(name):
    one = profiles.profile(name)
    text = to_toml(one, "a comment")
    assert text.startswith("# a comment\n")
    assert profiles.parse(text.encode(), name) == one


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_words_are_written_as_toml(words):
    plain = profiles.parse(OWN.encode(), "own")
    one = plain.model_copy(update={"title": words, "notes": (words, "second")})
    assert tomllib.loads(to_toml(one))["title"] == words
    assert profiles.parse(to_toml(one).encode(), "own") == one


def test_the_page_shows_a_valid_profile():
    page = (REPOSITORY / "docs" / "devices.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    one = profiles.parse(example.encode(), "docs/devices.md")
    assert one.export.targets
    for name in SHIPPED:
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_has_its_source(name):
    one = profiles.profile(name)
    assert {"memory", "bandwidth"} & set(one.figures())
    lacking = [figure for figure in one.figures() if one.source_of(figure) is None]
    assert lacking == []
    claimed = {figure for source in one.sources for figure in source.gives}
    assert claimed == set(one.figures())  # and no source is of a figure that is not there


def test_a_source_of_nothing_known_is_refused(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(OWN + 'gives = ["colour"]\n')
    with pytest.raises(InputError, match=r"sources\.0\.gives\.0: Input should be 'memory'"):
        profiles.profile(str(path))
    path.write_text(OWN)
    one = profiles.profile(str(path))
    assert one.figures() == ("memory", "cores")
    assert one.source_of("memory") is None
