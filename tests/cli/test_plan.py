"""``edgekit plan``: the published budget, computed; and what fits where."""

import pytest

from edgekit import models
from edgekit.errors import UsageError
from edgekit.models.moshi import plan
from edgekit.models.moshi.config import MIMI, MOSHI_7B

# GB a frame and GB/s of weights alone, GB/s with keys and values of all 3000 steps in 16 bits.
PUBLISHED = {
    "fp32": (29.5, 369, 388),
    "bf16": (14.75, 184, 204),
    "int8": (7.37, 92, 112),
    "int4": (4.15, 52, 71.5),
}


@pytest.mark.parametrize("precision", PUBLISHED)
def test_the_published_table(precision):
    frame, floor, whole = PUBLISHED[precision]
    cost = plan.language_cost(MOSHI_7B, precision, cache="bf16")
    assert cost.weights / 1e9 == pytest.approx(frame, rel=2e-3)
    assert 12.5 * cost.weights / 1e9 == pytest.approx(floor, rel=5e-3)
    assert 12.5 * cost.frame / 1e9 == pytest.approx(whole, rel=5e-3)


def test_weights_are_those_that_the_network_has():
    language = plan.temporal_weights(MOSHI_7B) + plan.depth_weights(MOSHI_7B)
    assert language == pytest.approx(7.375e9, rel=1e-3)
    parts = language + plan.embeddings(MOSHI_7B) + models.spec("mimi").parameters
    norms = (2 * 32 + 1) * 4096 + 2 * 6 * 1024
    assert parts + norms == models.spec("moshi-7b").parameters
    assert plan.ring_bytes(MOSHI_7B.temporal, "bf16") == pytest.approx(1.57e9, rel=2e-3)
    codec = plan.codec_cost(MIMI, models.spec("mimi").parameters)
    assert codec.weights == pytest.approx(334e6, rel=2e-3)
    assert codec.cache == 2 * 16 * 8 * 250 * 64 * 4


def test_bits_with_their_scales():
    assert plan.weight_bits("int4") == plan.weight_bits("int4", "openvino") == 4.5
    assert plan.weight_bits("int4", "onnx") == 5
    assert plan.weight_bits("int8", "onnx") == 8.25
    with pytest.raises(UsageError):
        plan.weight_bits("int2")


def test_a_short_context_is_less_to_read():
    whole, half = (plan.language_cost(MOSHI_7B, "int4", context=c) for c in (None, 1500))
    assert half.cache == whole.cache / 2


def verdicts(edgekit, *arguments):
    done = edgekit("plan", *arguments, "--json")
    assert done.code == 0, done.err
    return {(one["device"], one["precision"]): one["verdict"] for one in done.document["devices"]}


def test_what_fits(edgekit):
    found = verdicts(edgekit, "moshi-7b", "--cache", "bf16")
    assert not any(found["rpi5", precision] != "no" for precision in plan.PRECISIONS)
    assert found["jetson-orin-nano", "int4"] == "no"
    assert found["jetson-agx-orin", "int4"] == found["jetson-agx-orin", "int8"] == "fits"
    assert found["jetson-agx-orin", "bf16"] == "no"
    assert ("iphone", "int4") not in found  # nobody publishes its bandwidth
    faster = ("--device", "jetson-orin-nano", "--bandwidth", "102")
    assert verdicts(edgekit, "moshi-7b", "--cache", "bf16", *faster)[
        "jetson-orin-nano", "int4"
    ] in ("tight", "no")
    assert verdicts(edgekit, "mimi", "--device", "rpi5") == {("rpi5", "fp32"): "fits"}


def test_words(edgekit):
    done = edgekit("plan", "moshi-7b", "--device", "jetson-agx-orin")
    assert done.code == 0
    assert "12.5 frames a second are needed" in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cpubone-b0"], "no plan for cpubone-b0"),
        (["moshi-7b", "--device", "iphone"], "give --bandwidth"),
        (["moshi-7b", "--cache", "int8"], "no --cache int8"),
        (["moshi-7b", "--target", "x"], "no target"),
        (["moshi-7b", "--context", "5000"], "no context of 5000"),
        (["moshi"], "moshi-7b"),
    ],
)
def test_what_makes_no_sense(arguments, told, edgekit):
    done = edgekit("plan", *arguments)
    assert done.code == 2
    assert told in done.err
