"""From untrusted bytes to a manifest that makes sense.

The schema (:mod:`edgekit.manifest`) says which fields there are; :func:`check_contract`
says how they must fit together, so that whoever holds a parsed manifest need not ask.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgekit.containment import check_name, check_names, open_beneath
from edgekit.errors import BundleError
from edgekit.manifest import (
    MANIFEST_NAME,
    REPORT_NAME,
    SCHEMA_VERSION,
    Artifact,
    Graph,
    Manifest,
    StatePair,
    TensorSpec,
)

MAX_MANIFEST: Final = 64 << 20  # bytes
_BITS: Final = {"float": (16, 32, 64), "int": (8, 16, 32, 64), "uint": (8, 16, 32, 64)}
DTYPES: Final = {"bool", *(f"{kind}{bits}" for kind, sizes in _BITS.items() for bits in sizes)}


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in ``data``, checked by its schema and by :func:`check_contract`.

    Args:
        where: the bundle's path, for the message.

    Raises:
        BundleError: it is too large, no JSON, of another schema, or contradicts itself.
    """
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"the manifest of {where} is larger than {MAX_MANIFEST} bytes")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as e:
        raise BundleError(f"the manifest of {where} is not valid", *_first(e)) from None
    check_contract(manifest)
    return manifest


def read_manifest(root: Path) -> Manifest:
    """The manifest of the bundle folder ``root``; errors as in :func:`parse_manifest`."""
    try:
        with open_beneath(root, MANIFEST_NAME) as source:
            data = source.read(MAX_MANIFEST + 1)
    except FileNotFoundError:
        raise BundleError(f"{root} is no edgekit bundle", f"it has no {MANIFEST_NAME}") from None
    except OSError as e:
        raise BundleError(f"{MANIFEST_NAME} in {root} cannot be read", e.strerror or "") from e
    return parse_manifest(data, str(root))


def _first(error: ValidationError) -> tuple[str, str]:
    """The first of pydantic's problems in words, and what to do about it."""
    problem = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    if field == "schema_version":
        reason = f"this edgekit reads schema {SCHEMA_VERSION} only"
        return reason, "export the model again, or install the edgekit that made it"
    return f"{field}: {problem['msg']}" if field else str(problem["msg"]), ""


def manifest_bytes(manifest: Manifest) -> bytes:
    """``manifest.json`` as it is written: sorted keys, one line a value."""
    plain = _plain(manifest)
    return json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def manifest_digest(manifest: Manifest) -> str:
    """The sha256 that identifies a bundle: of its manifest as canonical JSON, no report."""
    plain = _plain(manifest, "report")
    return hashlib.sha256(
        json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _plain(manifest: Manifest, *without: str) -> dict:
    """The manifest as JSON's own values, as it is written and digested."""
    # Through pydantic's own JSON, which writes infinities as strings.
    plain = json.loads(manifest.model_dump_json(exclude=set(without)))
    # A bundle without them has the bytes and the digest, under which its measurements are
    # kept, that it had before there were such fields.
    artifacts = (artifact for graph in plain["graphs"] for artifact in graph["artifacts"])
    for record, later in ((plain, "device"), (plain, "evaluation")):
        if record[later] is None:
            del record[later]
    for artifact in artifacts:
        if artifact["accuracy"] is None:
            del artifact["accuracy"]
    for pair in (pair for graph in plain["graphs"] for pair in graph["states"]):
        if pair["ring_axis"] is None:
            del pair["ring_axis"], pair["ring_slot"]
    return plain


def check_contract(manifest: Manifest) -> None:
    """Check that a manifest does not contradict itself.

    Raises:
        BundleError: files collide or may not be listed, graphs or targets repeat, an
            artifact names a file that is not listed, a dtype is unknown, a shape, range
            or state pair makes no sense.
    """
    names = [entry.path for entry in manifest.files]
    check_names([*names, MANIFEST_NAME, REPORT_NAME])
    if manifest.report and manifest.report.path != REPORT_NAME:
        raise BundleError(f"the report of the bundle is not {REPORT_NAME}")
    _check_unique("graph", (graph.name for graph in manifest.graphs))
    folders = {name[:i] for name in names for i, c in enumerate(name) if c == "/"}
    for graph in manifest.graphs:
        try:
            _check_graph(graph, set(names), folders)
        except BundleError as e:
            raise BundleError(f"graph {graph.name!r} of the bundle: {e.what}", e.why) from None


def _check_graph(graph: Graph, files: set[str], folders: set[str]) -> None:
    check_name(graph.name)
    for specs in (graph.inputs, graph.outputs):
        _check_unique("tensor", (spec.name for spec in specs))
        for spec in specs:
            _check_tensor(spec)
    for axis, limits in graph.dynamic.items():
        if not 0 <= limits.min <= limits.max:
            raise BundleError(f"axis {axis} may be {limits.min} to {limits.max}")
    _check_unique("target", (artifact.target for artifact in graph.artifacts))
    for artifact in graph.artifacts:
        _check_artifact(artifact, files, folders)
    if graph.reference is not None and graph.reference not in files:
        raise BundleError(f"its reference {graph.reference!r} is not in the bundle")
    _check_states(graph)


def _check_tensor(spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES:
        raise BundleError(f"{spec.name} has the unknown dtype {spec.dtype!r}")
    if any(size < 0 if isinstance(size, int) else not size for size in spec.shape):
        raise BundleError(f"{spec.name} has the impossible shape {list(spec.shape)}")


def _check_artifact(artifact: Artifact, files: set[str], folders: set[str]) -> None:
    ok = artifact.status == "ok"
    if ok and (artifact.file is None or artifact.file.endswith(".rejected")):
        raise BundleError(f"the artifact for {artifact.target} is ok but has no file")
    for name in (artifact.file, *artifact.extra):
        if name is not None and name not in files and name not in folders:
            raise BundleError(f"{name!r} of target {artifact.target} is not in the bundle")


def _check_states(graph: Graph) -> None:
    inputs = {spec.name: spec for spec in graph.inputs}
    outputs = {spec.name: spec for spec in graph.outputs}
    for pair in graph.states:
        source, sink = outputs.get(pair.output), inputs.get(pair.input)
        if not source or not sink or not _feeds(source, sink, pair, graph):
            raise BundleError(f"the state {pair.output} -> {pair.input} does not fit")
    for what, names in (
        ("state input", [pair.input for pair in graph.states]),
        ("state output", [pair.output for pair in graph.states]),
    ):
        _check_unique(what, names)


def _feeds(source: TensorSpec, sink: TensorSpec, pair: StatePair, graph: Graph) -> bool:
    """Whether an output fits the state's input: the same, or a part of a ring."""
    if pair.ring_axis is None or pair.ring_slot is None:
        same = (source.dtype, source.shape) == (sink.dtype, sink.shape)
        return same and pair.ring_axis is None and pair.ring_slot is None
    counters = {other.input for other in graph.states if other.ring_axis is None}
    slot = {spec.name: spec for spec in graph.inputs}.get(pair.ring_slot)
    if slot is None or slot.name not in counters or slot.shape != (1,) or "int" not in slot.dtype:
        return False
    axis, parts, whole = pair.ring_axis, list(source.shape), list(sink.shape)
    if source.dtype != sink.dtype or len(parts) != len(whole) or axis >= len(whole):
        return False
    part, length = parts.pop(axis), whole.pop(axis)
    fits = isinstance(part, int) and isinstance(length, int) and 0 < part <= length
    return fits and length % part == 0 and parts == whole


def _check_unique(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise BundleError(f"the {what} {name!r} occurs {count} times")
