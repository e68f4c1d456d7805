"""``edgekit deploy`` against a real OpenSSH server: another user, another port, a real edgekit."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from edgekit import measurements
from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.devices.deploy import Place
from edgekit.devices.destination import Destination, parse, read_hosts
from edgekit.devices.sealed import sealed
from edgekit.errors import InputError, UsageError

from .gain_bundle import BALLAST, SIDE, gain_bundle
from .ssh_server import CutAfter, serve

pytest.importorskip("asyncssh")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def server():
    with serve() as one:
        yield one


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EDGEKIT_TRACEBACK", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def bundle(tmp_path):
    """``bundle(gain)``: see :func:`gain_bundle`."""
    return lambda gain, wrong=False: gain_bundle(tmp_path, gain, wrong)


@pytest.fixture
def edgekit(capfd, server, tmp_path):
    """Run ``edgekit deploy`` with the server's key and known hosts; code, document, stderr."""

    def run(*arguments, key=server.key, known=None, port=None):
        known = known or server.known_hosts(tmp_path / "known_hosts", *([port] if port else []))
        access = ["--identity", key, "--known-hosts", known]
        capfd.readouterr()
        code = main([str(word) for word in ("deploy", *arguments, *access, "--json", "--quiet")])
        out, err = capfd.readouterr()
        return code, json.loads(out), err

    return run


QUICK = ("--repeat", "2", "--threads", "1")


def on_device(server, *words):
    """Run a command as the server's user, who is on the device; its standard output."""
    command = [server.bin / "edgekit", *words] if words[0] in ("run", "verify") else [*words]
    if os.getuid() == 0:
        command = ["runuser", "-u", server.user, "--", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(server, folder, tmp_path):
    """What the current bundle of a deployment computes of ones, run by the device's own user."""
    file = server.home / "ones.npy"
    np.save(tmp_path / "ones.npy", np.ones((1, SIDE), np.float32))
    shutil.copy(tmp_path / "ones.npy", file)
    file.chmod(0o644)
    said = on_device(server, "run", server.home / folder / "current.edgekit", file, "--json")
    return json.loads(said)["results"][0]["result"]["outputs"]["y"]["mean"]


def names(server, folder):
    return sorted(path.name for path in (server.home / folder).iterdir())


class TestDeployment:
    def test_deploy_replace_and_roll_back(self, edgekit, server, bundle, tmp_path):
        place = server.address("models/gain")
        code, document, err = edgekit(bundle(2), place, *QUICK)
        assert (code, err) == (0, "")
        (first,) = document["hosts"]
        assert (first["status"], first["activated"], first["previous"]) == ("ok", True, False)
        assert first["sent"] > BALLAST
        assert names(server, "models/gain") == ["current.edgekit"]
        assert first["verify"]["passed"]
        assert first["verify"]["artifacts"][0]["verify"]["level"] == "ran"
        assert {"onnxruntime", "torch"} <= {one["name"] for one in first["backends"]}
        missing = {one["name"] for one in first["backends"] if one["status"] == "missing"}
        assert "torch" in missing  # the device is one: nothing of ours is seen through
        (row,) = first["bench"]["rows"]
        assert (row["runtime"], row["threads"], row["samples"]) == ("onnxruntime", 1, 2)
        # It is remembered here, and joins the report, as that device's.
        with Bundle.open(bundle(2)) as opened:
            (kept,) = measurements.rows_for(opened.digest)
        assert kept["host"]["name"].endswith(f"over SSH to {server.user}@127.0.0.1:{server.port}")
        assert kept["latency_ms"] == row["latency_ms"]
        report = (bundle(2) / "report.html").read_text()
        assert f"over SSH to {server.user}@127.0.0.1:{server.port}" in report

        # And there, where ``auto`` follows it.
        assert (server.home / "edgekit/state/measurements.sqlite3").is_file()

        # The same again is not sent again, also though its report is another now.
        code, document, _ = edgekit(bundle(2), place, "--no-bench")
        assert (code, document["hosts"][0]["sent"]) == (0, 0)
        assert names(server, "models/gain") == ["current.edgekit"]

        code, document, _ = edgekit(bundle(3), place, "--no-bench")
        assert (code, document["hosts"][0]["previous"]) == (0, True)
        assert names(server, "models/gain") == ["current.edgekit", "previous.edgekit"]
        assert answer(server, "models/gain", tmp_path) == 3

        code, document, err = edgekit("--rollback", place, *QUICK)
        assert (code, err) == (0, "")
        assert document["hosts"][0]["bench"]["rows"]
        assert answer(server, "models/gain", tmp_path) == 2
        # Twice is back where it was.
        assert edgekit("--rollback", place, "--no-bench")[0] == 0
        assert answer(server, "models/gain", tmp_path) == 3

    def test_a_damaged_previous_version_does_not_come_back(self, edgekit, server, bundle, tmp_path):
        place = server.address("damaged")
        assert edgekit("--rollback", place)[0] == 2  # there is none
        for gain in (2, 3):
            assert edgekit(bundle(gain), place, "--no-bench")[0] == 0
        previous = server.home / "damaged/previous.edgekit"
        data = bytearray(previous.read_bytes())
        data[len(data) // 2] ^= 1
        previous.write_bytes(data)
        code, _, err = edgekit("--rollback", place)
        assert code == 7
        assert err.count("\n") == 1
        assert err.startswith(f"error: on {server.user}@127.0.0.1:{server.port}: ")
        assert answer(server, "damaged", tmp_path) == 3

    def test_a_fleet_goes_on_without_the_one_that_fails(self, edgekit, server, bundle, tmp_path):
        hosts = tmp_path / "hosts"
        hosts.write_text(
            f"# two that are there, one that is not\n{server.address('a')}\n\n"
            f"{server.address('gone', port=1)}\n{server.address('b')}\n"
        )
        code, document, err = edgekit(bundle(2), "--hosts", hosts, "--no-bench")
        assert code == 9
        assert [one["status"] for one in document["hosts"]] == ["ok", "failed", "ok"]
        assert document["hosts"][1]["error"]["code"] == 9
        assert err.count("\n") == 1
        assert "127.0.0.1:1 cannot be reached" in err
        for folder in ("a", "b"):
            assert answer(server, folder, tmp_path) == 2

    def test_the_table_for_people(self, server, bundle, tmp_path, capfd):
        known = server.known_hosts(tmp_path / "known_hosts")
        words = ["deploy", bundle(2), server.address("people"), server.address("x", port=1)]
        options = ["-i", server.key, "--known-hosts", known, *QUICK]
        assert main([str(word) for word in (*words, *options)]) == 9
        out, err = capfd.readouterr()
        assert "onnxruntime, 1 threads" in out
        assert "failed" in out
        assert err.startswith("warning: ")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/m", ("/srv/m", "current.edgekit", "previous.edgekit")),
        ("/srv/m.edgekit", ("/srv", "m.edgekit", "m.previous.edgekit")),
        ("/m.edgekit", ("/", "m.edgekit", "m.previous.edgekit")),
        ("m.edgekit", (".", "m.edgekit", "m.previous.edgekit")),
    ],
)
def test_where_bundles_lie(path, found):
    place = Place.named(path)
    assert (place.folder, place.current, place.previous) == found
    assert Place.named("/m.edgekit").path("x") == "/x"


def test_an_address_may_name_a_file(edgekit, server, bundle):
    place = server.address("named/my net.edgekit").replace(" ", "%20")
    for gain in (2, 3):
        assert edgekit(bundle(gain), place, "--no-bench")[0] == 0
    assert names(server, "named") == ["my net.edgekit", "my net.previous.edgekit"]
    assert edgekit("--rollback", place, "--no-bench")[0] == 0
    with Bundle.open(server.home / "named/my net.edgekit") as current:
        assert current.manifest.model.name == "gain 2"


class TestRefusals:
    """Whatever goes wrong: one line, a code of its own, and the old version still runs."""

    @pytest.fixture(autouse=True)
    def _deployed(self, edgekit, server, bundle, tmp_path, request):
        self.folder = request.node.name
        self.place = server.address(self.folder)
        (server.home / "template").exists() or edgekit(
            bundle(2), server.address("template"), "--no-bench"
        )
        shutil.copytree(server.home / "template", server.home / self.folder)
        if os.getuid() == 0:
            shutil.chown(server.home / self.folder, server.user)
            shutil.chown(server.home / self.folder / "current.edgekit", server.user)
        yield
        assert names(server, self.folder) == ["current.edgekit"]
        assert answer(server, self.folder, tmp_path) == 2

    def refused(self, done, code, *words):
        assert done[0] == code, done[2]
        assert done[2].count("\n") == 1
        assert done[2].startswith("error: ")
        (host,) = done[1]["hosts"]
        assert (host["status"], host["activated"], host["error"]["code"]) == ("failed", False, code)
        for word in words:
            assert word in done[2]

    def test_an_unknown_host_key(self, edgekit, bundle, tmp_path):
        (tmp_path / "nobody").write_text("")
        done = edgekit(bundle(3), self.place, known=tmp_path / "nobody")
        self.refused(done, 9, "host key", "is not known", "compare its fingerprint")

    def test_another_host_key(self, edgekit, server, bundle, tmp_path):
        known = server.known_hosts(tmp_path / "other", key="other_key")
        done = edgekit(bundle(3), self.place, known=known)
        self.refused(done, 9, "is not the one in known_hosts", "ssh-keygen -R")

    def test_another_key(self, edgekit, server, bundle):
        done = edgekit(bundle(3), self.place, key=server.root / "stranger_key")
        self.refused(done, 9, "does not let us in", "ssh-copy-id")

    def test_a_connection_that_is_cut_while_it_sends(self, edgekit, server, bundle):
        with CutAfter(server.port, BALLAST // 2) as cut:
            place = server.address(self.folder, port=cut.port)
            done = edgekit(bundle(3), place, "--no-bench", port=cut.port)
        self.refused(done, 9, "the connection to", "was lost")
        assert done[1]["hosts"][0]["sent"] == 0
        # What arrived is beside it, and goes when somebody deploys a day later.
        (left,) = (server.home / self.folder).glob(".current.edgekit.part-*")
        assert left.stat().st_size < BALLAST
        for _ in range(5):  # what is on its way to the disk yet makes the file young again
            os.utime(left, (0, 0))
            assert edgekit(bundle(2), self.place, "--no-bench")[0] == 0
            if not left.exists():
                break
        assert not left.exists()

    def test_a_byte_that_changes_on_the_way(self, edgekit, server, bundle):
        shim = server.bin / "cat"
        shim.write_text("#!/bin/sh\n/bin/cat \"$@\" | tr '\\377' '\\376'\n")
        shim.chmod(0o755)
        try:
            done = edgekit(bundle(3), self.place)
        finally:
            shim.unlink()
        self.refused(done, 7, "is not what was sent", "deploy again")

    def test_a_network_that_answers_differently_there(self, edgekit, bundle):
        self.refused(edgekit(bundle(5, wrong=True), self.place), 5, "departs from PyTorch")

    def test_no_edgekit(self, edgekit, bundle):
        done = edgekit(bundle(3), self.place, "--edgekit", "/nowhere/edgekit")
        self.refused(done, 9, "edgekit is not installed", "edgekit pack")


def test_a_full_disk(edgekit, server, bundle, tmp_path):
    small = server.home / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={BALLAST + (1 << 20)},mode=0777", "tmpfs", small],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        place = server.address("small/gain")
        assert edgekit(bundle(2), place, "--no-bench")[0] == 0
        code, document, err = edgekit(bundle(3), place)
        assert (code, err.count("\n")) == (9, 1)
        assert "cannot be written" in err
        assert "No space left on device" in err
        assert document["hosts"][0]["activated"] is False
        assert names(server, "small/gain") == ["current.edgekit"]
        assert answer(server, "small/gain", tmp_path) == 2
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ssh://pi@board:2222/srv/m", Destination("pi", "board", 2222, "/srv/m")),
        ("ssh://board/srv/my%20model/", Destination(None, "board", None, "/srv/my model")),
        ("ssh://[fe80::1]:22/~/m", Destination(None, "fe80::1", 22, "m")),
    ],
)
def test_addresses(text, found):
    assert parse(text) == found
    assert parse(str(found).replace(" ", "%20")) == found


@pytest.mark.parametrize(
    "text",
    [
        *("board:/srv", "ssh://board", "ssh://board/", "ssh://pi:secret@board/m", "http://board/m"),
        *("ssh:///m", "ssh://board:port/m", "ssh://board/a%0ab", "ssh://-oProxy/m", "ssh://b/m?x"),
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_files_of_hosts(tmp_path):
    (tmp_path / "none").write_text("# nobody\n\n")
    with pytest.raises(UsageError, match="there is no host"):
        read_hosts(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read_hosts(tmp_path / "absent")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no bundle is given"),
        (["ssh://board/m"], "no bundle is given"),
        (["b.edgekit"], "there is nowhere to deploy to"),
        (["--rollback"], "there is nowhere to deploy to"),
        (["--rollback", "b.edgekit"], "is no place to deploy to"),
        (["b.edgekit", "ssh://board/m", "--input", "gone.png"], "there is no file gone.png"),
    ],
)
def test_wrong_usage(words, said, capfd):
    assert main(["deploy", *words]) == 2
    assert said in capfd.readouterr().err


def test_a_sealed_bundle_depends_on_its_content_alone(bundle, tmp_path):
    from edgekit.bundle import update_report

    path = bundle(2)
    with Bundle.open(path) as opened, sealed(opened) as file:
        first = file.read_bytes()
    update_report(path, "<p>measured since</p>")
    with Bundle.open(path) as opened, sealed(opened) as file:
        assert file.read_bytes() == first
        with Bundle.open(file) as sent:
            assert sent.digest == opened.digest
            sent.check_all()
