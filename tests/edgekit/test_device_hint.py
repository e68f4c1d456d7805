"""The manifest's record of a device: optional, checked, and nothing to those who have none."""

import hashlib
import json

import pytest

from edgekit.errors import BundleError
from edgekit.manifest import DeviceHint, Manifest
from edgekit.manifest_reader import manifest_bytes, manifest_digest, parse_manifest

from .conftest import fields


def manifest(**more) -> Manifest:
    listed = [
        {"path": path, "bytes": 1, "sha256": "0" * 64}
        for path in (
            "graphs/forward/onnx/model.onnx",
            "graphs/forward/coreml/model.mlpackage/Manifest.json",
        )
    ]
    return Manifest.model_validate({**fields(), "files": listed, **more})


def test_it_is_written_and_read():
    hint = DeviceHint(name="rpi5", runtimes=("openvino", "onnxruntime"), threads=4)
    read = parse_manifest(manifest_bytes(manifest(device=hint)), "here")
    assert read.device == hint


def test_a_bundle_for_no_device_is_as_if_there_were_no_such_field():
    """So that a digest under which measurements were kept still names that bundle."""
    plain = manifest()
    written = json.loads(manifest_bytes(plain))
    assert "device" not in written
    assert parse_manifest(manifest_bytes(plain), "here").device is None
    del written["report"]
    canonical = json.dumps(written, sort_keys=True, separators=(",", ":")).encode()
    assert manifest_digest(plain) == hashlib.sha256(canonical).hexdigest()
    assert manifest_digest(manifest(device=DeviceHint(name="x"))) != manifest_digest(plain)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ({"name": "x", "threads": 0}, "device.threads: Input should be greater than"),
        ({"name": "x", "governor": "fast"}, "device.governor: Extra inputs"),
        ({"threads": 2}, "device.name: Field required"),
    ],
)
def test_nonsense_is_refused(device, reason):
    written = json.loads(manifest_bytes(manifest()))
    with pytest.raises(BundleError, match=reason):
        parse_manifest(json.dumps({**written, "device": device}).encode(), "here")
