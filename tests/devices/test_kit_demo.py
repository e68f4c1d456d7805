"""``edgekit pack --demo``: a device serves the page of its bundle, from a kit alone."""

import io
import json
import platform
import re
import shlex
import subprocess
import time
import urllib.request

import pytest
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.devices import kit, profiles
from edgekit.errors import DeviceError, UsageError

from .gain_bundle import colour_bundle, gain_bundle
from .test_kit import PYTHON, install

pytest.importorskip("onnx")
pytest.importorskip("starlette")

from websockets.sync.client import connect

from edgekit.apps.web.frames import Frame, Kind


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no x86")
def test_a_kit_with_a_demo_serves_its_page(tmp_path):
    out, place = tmp_path / "kit", tmp_path / "place"
    with Bundle.open(colour_bundle(tmp_path)) as bundle:
        try:
            made = kit.pack(bundle, profiles.profile("x86-laptop"), out, PYTHON, demo=True)
        except DeviceError as error:
            pytest.skip(f"pip cannot download here: {error.why}")
    assert {"starlette", "uvicorn", "websockets", "av"} <= {
        name.partition("-")[0] for name in made.wheels
    }
    done = install(out, place)
    assert done.returncode == 0, done.stderr
    unit = (place / "colours/edgekit-colours-demo.service").read_text()
    assert "@" not in unit
    assert "Requires=edgekit-colours.service" in unit
    environment = place / "colours/demo.env"
    assert environment.stat().st_mode & 0o777 == 0o600
    token = re.search(r"^EDGEKIT_TOKEN=([0-9a-f]{32})$", environment.read_text(), re.M)[1]
    # As systemd would start it, but for a port that is free.
    command = shlex.split(re.search(r"^ExecStart=(.*) \$DEMO_OPTIONS$", unit, re.M)[1])
    assert command[-4:] == ["--host", "0.0.0.0", "--port", "8990"]  # noqa: S104
    running = subprocess.Popen(
        [*command, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "EDGEKIT_TOKEN": token},
    )
    try:
        said = running.stderr.readline()
        port, page = re.search(r"http://[^:]+:(\d+)(/\S+/) ", said).groups()
        assert page == f"/{token}/"
        time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=20) as answer:
            assert b"<canvas" in answer.read()
        assert label(f"ws://127.0.0.1:{port}{page}live", (10, 10, 200)) == "blue"
    finally:
        running.terminate()
        running.wait(timeout=20)
    # A second installation keeps the token, which may be in somebody's bookmarks.
    assert install(out, place).returncode == 0
    assert token in environment.read_text()


def label(address, colour) -> str:
    written = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(written, "JPEG")
    with connect(address) as client:
        client.send(json.dumps({"type": "present"}))
        while json.loads(client.recv(timeout=20))["type"] != "stage":
            pass
        client.send(Frame(Kind.PICTURE, 1, written.getvalue()).pack())
        while (told := json.loads(client.recv(timeout=20)))["type"] != "result":
            pass
        return told["top"][0]["label"]


def test_what_no_demo_shows_is_refused(tmp_path):
    with (
        Bundle.open(gain_bundle(tmp_path, 2)) as bundle,
        pytest.raises(UsageError, match="no demo shows"),
    ):
        kit.pack(bundle, profiles.profile("x86-laptop"), tmp_path / "kit", PYTHON, demo=True)


def test_every_demo_of_a_kit_is_a_command():
    from edgekit.cli import demo

    names = {command.name for command in demo.app.registered_commands}
    assert set(kit.DEMOS.values()) <= names
