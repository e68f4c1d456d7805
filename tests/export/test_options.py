"""What a user types, and what it means."""

import pytest

from edgekit.errors import UsageError
from edgekit.export.options import parse_dynamic, parse_input, parse_resolution, resolve_axes
from edgekit.models.spec import InputSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:float32[1,3,224,224]", InputSpec("x", "float32", (1, 3, 224, 224))),
        ("x:float16[1x3x8]", InputSpec("x", "float16", (1, 3, 8))),
        ("ids:int64[1, 16]<30522", InputSpec("ids", "int64", (1, 16), high=30522)),
        ("flag:bool[]", InputSpec("flag", "bool", ())),
        ("input.1:float[2]", InputSpec("input.1", "float64", (2,))),
    ],
)
def test_inputs(text, expected):
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "is not NAME:DTYPE"),
        ("x:float32", "is not NAME:DTYPE"),
        ("x:float32[a]", "is not NAME:DTYPE"),
        ("x:float32[-1]", "is not NAME:DTYPE"),
        ("x:float33[1]", "has no dtype float33"),
        ("x:float32[1,0]", "has a size of 0"),
        (":float32[1]", "is not NAME:DTYPE"),
    ],
)
def test_inputs_that_are_none(text, message):
    with pytest.raises(UsageError, match=message) as failure:
        parse_input(text)
    assert "x:float32[1,3,224,224]" in str(failure.value)


def test_dynamic_axes():
    found = parse_dynamic(["image:batch=1..8", "image:2=16..64", "ids:length=1..512"])
    assert found == {"image": {"batch": (1, 8), "2": (16, 64)}, "ids": {"length": (1, 512)}}
    for text in (
        "image",
        "image:batch",
        "image:batch=1",
        "image:batch=a..b",
        "image:batch=1..",
        "",
    ):
        with pytest.raises(UsageError, match="is not NAME:AXIS=MIN"):
            parse_dynamic([text])


def test_axes_have_names_by_rank():
    inputs = (InputSpec("image", "float32", (1, 3, 8, 8)), InputSpec("ids", "int64", (1, 16)))
    asked = {"image": {"batch": (1, 8), "3": (8, 64), "height": (8, 32)}, "ids": {"length": (1, 9)}}
    assert resolve_axes(asked, inputs) == {
        "image": {0: (1, 8), 3: (8, 64), 2: (8, 32)},
        "ids": {1: (1, 9)},
    }
    with pytest.raises(UsageError, match="ids has no axis width: it has batch, length"):
        resolve_axes({"ids": {"width": (1, 2)}}, inputs)
    with pytest.raises(UsageError, match="no input sound to make dynamic: inputs: image, ids"):
        resolve_axes({"sound": {"batch": (1, 2)}}, inputs)


def test_resolutions():
    assert parse_resolution("224") == (224, 224)
    assert parse_resolution("256x320") == (256, 320)
    assert parse_resolution(None) is None
    for text in ("", "0", "224x", "224x0", "-1", "big", "1x2x3"):
        with pytest.raises(UsageError, match="is not H or HxW"):
            parse_resolution(text)
