"""The command line as a whole: help, errors and exit codes, what goes to which stream."""

import json
import os
import subprocess
import sys

import pytest

from edgekit import __version__
from edgekit.cli import commands, doctor
from edgekit.errors import EdgekitError, ParityError


@pytest.fixture
def failing_command(monkeypatch):
    """Make ``edgekit doctor`` raise what the test wants."""

    def install(error):
        def command(json: bool = False) -> None:
            raise error

        monkeypatch.setattr(doctor, "command", command)

    return install


def test_help_lists_every_command_that_is_there(program):
    done = program("--help")
    assert done.code == 0
    assert done.err == ""
    for name in commands.available():
        assert f"  {name} " in done.out
    assert {"models", "doctor", "inspect", "run", "bench"} <= set(commands.available())


def test_help_loads_no_command_and_nothing_heavy():
    probe = (
        "import sys; from edgekit.cli import main; main(['--help']);"
        "heavy = {'numpy', 'pydantic', 'rich', 'torch', 'onnxruntime'} & set(sys.modules);"
        "print(sorted(heavy), [m for m in sys.modules if m == 'edgekit.cli.models'])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"


def test_a_command_without_its_module_is_neither_listed_nor_found(edgekit, monkeypatch):
    entry = commands.Entry("no_such_module", "Not made yet.")
    monkeypatch.setitem(commands.COMMANDS, "teleport", entry)
    assert "teleport" not in edgekit("--help").out
    assert edgekit("teleport").code == 2


@pytest.mark.parametrize("name", commands.available())
def test_every_command_explains_itself_and_takes_json_and_quiet(edgekit, name):
    done = edgekit(name, "--help")
    assert done.code == 0
    if "COMMAND" not in done.out:  # a group has them at its own commands
        assert "--json" in done.out
        assert "--quiet" in done.out


def test_no_arguments_is_a_question_for_help(edgekit):
    done = edgekit()
    assert done.code == 0
    assert "Commands:" in done.out


def test_version(edgekit):
    assert edgekit("--version").out == f"edgekit {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["modles"], "error: there is no command 'modles'. Next: edgekit models\n"),
        (["xyzzy"], "error: there is no command 'xyzzy'. Next: edgekit --help\n"),
        (["models", "--jsno"], "Next: edgekit models --help\n"),
        (["bench"], "Next: edgekit bench --help\n"),
        (["bench", "x", "--repeat", "0"], "Next: edgekit bench --help\n"),
        (["bench", "x", "--repeat", "many"], "Next: edgekit bench --help\n"),
        (["run", "x"], "Next: edgekit run --help\n"),
        (["--nonsense"], "Next: edgekit --help\n"),
    ],
)
def test_usage_errors_are_one_line(edgekit, arguments, line):
    done = edgekit(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(line)
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_errors_under_json_are_one_document_too(edgekit):
    done = edgekit("modles", "--json")
    assert done.code == 2
    assert done.document == {
        "error": {
            "what": "there is no command 'modles'",
            "why": "",
            "next": "edgekit models",
            "code": 2,
        }
    }
    assert done.err.count("\n") == 1


def test_json_after_a_double_dash_is_not_an_option(edgekit):
    assert edgekit("inspect", "--", "--json").out == ""


def test_an_error_may_bring_its_own_document(edgekit, failing_command):
    error = ParityError("two of five targets failed")
    error.document = {"targets": [], "worst": float("inf")}
    failing_command(error)
    done = edgekit("doctor", "--json")
    assert done.code == 5
    assert done.document == {"targets": [], "worst": "Infinity"}
    assert done.err == "error: two of five targets failed\n"


def test_a_fault_is_one_line_and_exit_code_1(edgekit, failing_command, monkeypatch):
    failing_command(ZeroDivisionError("division\nby zero"))
    done = edgekit("doctor")
    assert done.code == 1
    assert done.err == (
        "error: a fault in edgekit: ZeroDivisionError: division by zero."
        " Next: run with EDGEKIT_TRACEBACK=1 to see where\n"
    )
    monkeypatch.setenv("EDGEKIT_TRACEBACK", "1")
    assert "Traceback" in edgekit("doctor").err


def test_interruption_is_130(edgekit, failing_command):
    failing_command(KeyboardInterrupt())
    done = edgekit("doctor")
    assert (done.code, done.err) == (130, "error: interrupted\n")


def test_a_reader_that_has_had_enough_is_no_error(edgekit, failing_command):
    failing_command(BrokenPipeError())
    kept = sys.stdout
    try:
        done = edgekit("doctor")
    finally:
        sys.stdout = kept
    assert (done.code, done.err) == (0, "")


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    probe = "import sys; from edgekit.cli import main; sys.exit(main(['models', '--json']))"
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", probe],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", EdgekitError.__subclasses__())
def test_every_kind_of_error_has_its_own_exit_code(edgekit, failing_command, kind):
    failing_command(kind("what", "why", "next"))
    done = edgekit("doctor", "--json")
    assert done.code == kind.exit_code
    assert done.document["error"] == {
        "what": "what",
        "why": "why",
        "next": "next",
        "code": kind.exit_code,
    }


def test_models_names_what_the_registry_holds(edgekit):
    from edgekit import models

    document = edgekit("models", "--json").document
    assert [row["name"] for row in document["models"]] == models.names()
    people = edgekit("models")
    assert people.code == 0
    assert all(name in people.out for name in models.names())


def test_models_needs_no_torch(program):
    blocked = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None;"
        "from edgekit.cli import main; sys.exit(main(['models', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["models"]
