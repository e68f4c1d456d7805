"""What a precision promises, and how a result is held against it."""

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.manifest import Metrics
from edgekit.metrics import compare
from edgekit.quant.precision import THRESHOLDS, failures, parse_tolerance, thresholds

GOOD = Metrics(max_abs=1e-7, rel_range=1e-7, nmse=1e-14, cosine=1.0)


def test_fewer_bits_promise_less():
    for name, sign in (("nmse", 1), ("rel_range", 1), ("cosine", -1)):
        bounds = [sign * THRESHOLDS[precision][name] for precision in ("fp32", "fp16", "bf16")]
        assert bounds == sorted(bounds)
        assert len(set(bounds)) == 3


def test_what_a_user_asks_replaces_that_bound_alone():
    assert thresholds("fp32", {"nmse": 1e-3}) == {**THRESHOLDS["fp32"], "nmse": 1e-3}
    assert thresholds("fp16") == THRESHOLDS["fp16"]
    assert thresholds("fp32") is not THRESHOLDS["fp32"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"nmse": 1e-8}, ["nmse 1e-08 is above 1e-09"]),
        ({"cosine": 0.9}, ["cosine 0.9 is below 0.999999"]),
        ({"rel_range": 1e-3}, []),
        ({"nmse": np.inf, "rel_range": np.inf, "cosine": 0.0}, ["nmse inf", "cosine 0", "rel_r"]),
        ({"nmse": np.nan}, ["nmse nan is above"]),
    ],
)
def test_broken_bounds_are_said_in_words(changed, words):
    found = failures(GOOD.model_copy(update=changed), thresholds("fp32"))
    assert len(found) == len(words)
    for text, start in zip(found, words, strict=True):
        assert text.startswith(start)


def test_rounding_to_sixteen_bits_keeps_its_own_promise_and_breaks_that_of_32():
    values = np.random.default_rng(0).standard_normal(10000).astype(np.float32)
    found = compare(values.astype(np.float16).astype(np.float32), values)
    assert not failures(found, thresholds("fp16"))
    assert failures(found, thresholds("fp32"))


def test_a_tolerance_is_a_json_object_of_bounds():
    assert parse_tolerance('{"nmse": 1e-6, "cosine": 1}') == {"nmse": 1e-6, "cosine": 1.0}
    assert parse_tolerance(None) == parse_tolerance("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "nmse",
        "[1]",
        "3",
        '{"error": 1}',
        '{"nmse": "1"}',
        '{"nmse": true}',
        '{"nmse": null}',
        '{"nmse": NaN}',
        '{"nmse": Infinity}',
    ],
)
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="--tolerance") as failure:
        parse_tolerance(text)
    assert '{"nmse": 1e-6}' in str(failure.value)
