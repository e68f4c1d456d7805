"""Damage of any kind: what opens is what was written, everything else is a BundleError."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import Bundle, BundleWriter
from edgekit.errors import BundleError
from edgekit.manifest import Manifest
from edgekit.manifest_reader import manifest_bytes, parse_manifest

from .conftest import FILES, fields

quick = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def original() -> bytes:
    """The bytes of a zip bundle."""
    folder = Path(tempfile.mkdtemp())
    with BundleWriter(folder / "b.edgekit") as writer:
        for rel, data in FILES.items():
            writer.add(rel, data)
        path = writer.finish(fields(), report="<p>1</p>")
    data = path.read_bytes()
    shutil.rmtree(folder)
    return data


@st.composite
def mutations(draw, size: int):
    """Replace, remove or insert a few runs of bytes, most of them short."""
    edits = []
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, size))
        length = draw(st.sampled_from([0, 1, 1, 1, 2, 4, 64, size]))
        edits.append((start, length, draw(st.binary(max_size=8))))
    return edits


def mutate(data: bytes, edits) -> bytes:
    for start, length, new in edits:
        data = data[:start] + new + data[start + length :]
    return data


def attempt(read):
    """What ``read`` returns, or the one line with which it refuses."""
    try:
        return read(), ""
    except BundleError as error:
        return None, str(error)


def essence(manifest: Manifest) -> dict:
    return manifest.model_dump(exclude={"files", "report"})


@quick
@given(st.data())
def test_a_mutated_zip_is_equal_or_refused(original, data):
    mutated = mutate(original, data.draw(mutations(len(original))))

    def read():
        with Bundle.open(path) as bundle:
            bundle.check_all()
            return bundle.manifest, {name: bundle.read(name) for name in FILES}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.edgekit")
        path.write_bytes(mutated)
        opened, refusal = attempt(read)
    assert "\n" not in refusal
    if opened is not None:
        assert opened[1] == FILES
        assert essence(opened[0]) == essence(Manifest(**fields(), files=()))


@quick
@given(st.data())
def test_a_mutated_manifest_parses_or_is_refused(data):
    text = manifest_bytes(Manifest(**fields(), files=()))
    mutated = mutate(text, data.draw(mutations(len(text))))
    manifest, refusal = attempt(lambda: parse_manifest(mutated, "b"))
    assert "\n" not in refusal
    if manifest is not None:  # what was accepted can be written and read again
        assert parse_manifest(manifest_bytes(manifest), "b") == manifest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@quick
@given(st.data())
def test_any_value_in_any_place_of_a_manifest(data):
    document = json.loads(manifest_bytes(Manifest(**fields(), files=())))
    holder, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = data.draw(st.sampled_from(list(keys)))
    holder[key] = data.draw(json_values)
    manifest, refusal = attempt(lambda: parse_manifest(json.dumps(document).encode(), "b"))
    assert (manifest is None) == bool(refusal)
    assert "\n" not in refusal
