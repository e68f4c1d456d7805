"""Results on stdout, noise on stderr, and nothing that JSON does not know."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli import output
from edgekit.errors import UsageError
from edgekit.manifest import Metrics


def test_json_has_no_nan():
    document = {"a": float("nan"), "b": [np.float32("inf"), -np.inf], "c": np.float64(0.5)}
    assert json.loads(output.dumps(document)) == {
        "a": "NaN",
        "b": ["Infinity", "-Infinity"],
        "c": 0.5,
    }


def test_json_takes_what_commands_hold():
    metrics = Metrics(max_abs=np.inf, rel_range=0, nmse=0, cosine=1)
    document = {
        "path": Path("a/b"),
        "array": np.array([[1, 2]]),
        "scalar": np.int64(3),
        "flag": np.True_,
        "metrics": metrics,
        "pair": (1, None),
    }
    assert json.loads(output.dumps(document)) == {
        "path": "a/b",
        "array": [[1, 2]],
        "scalar": 3,
        "flag": True,
        "metrics": {"max_abs": "Infinity", "rel_range": 0.0, "nmse": 0.0, "cosine": 1.0},
        "pair": [1, None],
    }
    with pytest.raises(TypeError, match="object"):
        output.dumps({"x": object()})


def test_what_libraries_print_stays_off_stdout():
    program = """
import ctypes, os, sys
from edgekit.cli import output
output.claim_stdout()
with output.Output(json=True) as out:
    print("from Python")
    os.write(1, b"from native code\\n")
    ctypes.CDLL(None).printf(b"buffered until the process ends\\n")
    out.result({"x": 1}, None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert json.loads(done.stdout) == {"x": 1}
    for noise in ("from Python", "from native code", "buffered until the process ends"):
        assert noise in done.stderr


def test_a_closed_stderr_does_not_matter():
    program = "from edgekit.cli import main; raise SystemExit(main(['--version']))"
    shell = f'"{sys.executable}" -c "{program}" 2>&-'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 0


def test_quiet_keeps_warnings_and_leaves_out_notes(capsys):
    with output.Output(quiet=True) as out:
        out.note("by the way")
        out.warn("look out")
        with out.status("Working"), out.progress("Working", 2) as advance:
            advance()
    captured = capsys.readouterr()
    assert captured.err == "warning: look out\n"
    assert captured.out == ""


def test_text_for_people_is_printed_as_it_is(capsys):
    shape = "image float32[1, 3, 224, 224] :smile: [bold]"
    with output.Output() as out:
        out.result({}, lambda console: console.print(shape))
    assert capsys.readouterr().out == shape + "\n"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("before")

    def fail(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match="No space left"):
        output.write_whole(target, fail)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
    output.write_whole(target, lambda part: part.write_text("after"))
    assert target.read_text() == "after"
    with pytest.raises(UsageError, match="cannot write"):
        output.write_whole(tmp_path / "no" / "folder.json", lambda part: part.write_text("x"))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (5e12, "5.0 TB"),
    ],
)
def test_sizes_are_decimal(count, text):
    assert output.size(count) == text
