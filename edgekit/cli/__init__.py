"""The command line: ``edgekit COMMAND …``.

Everything that can go wrong becomes one line on stderr here, in one place, with the exit
code of its kind (see :mod:`edgekit.errors`); with ``--json`` the same as one JSON document
on stdout. Commands therefore only raise. One command a file; :mod:`edgekit.cli.commands`
lists them, and a file is imported only when its command is used.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from edgekit.errors import EdgekitError, UsageError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TRACEBACK_VARIABLE = "EDGEKIT_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows ``edgekit``; by default the process's own. Only then is the
            process's file descriptor 1 taken for results alone
            (:func:`edgekit.cli.output.claim_stdout`).
    """
    from edgekit.cli import output

    if arguments is None:
        output.claim_stdout()
        arguments = sys.argv[1:]
    arguments = list(arguments)
    as_json = "--json" in _before_double_dash(arguments)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has had enough (`edgekit models | head -1`). Python would
        # complain again when it flushes at exit, so its stdout goes nowhere from here on.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives until the process ends
        return 0
    except KeyboardInterrupt:
        return _fail(EdgekitError("interrupted"), INTERRUPTED, as_json)
    except EdgekitError as error:
        return _fail(error, error.exit_code, as_json)
    except Exception as error:
        fault = EdgekitError(
            "a fault in edgekit",
            f"{type(error).__name__}: {error}",
            f"run with {TRACEBACK_VARIABLE}=1 to see where",
        )
        return _fail(fault, EdgekitError.exit_code, as_json)


def _dispatch(arguments: list[str]) -> int:
    """Parse and invoke; what the parser refuses leaves as :class:`UsageError`."""
    import typer

    from edgekit.cli.commands import root_command

    # Newer typer carries its own copy of click, older ones use the real one; the class
    # of errors that we want is an ancestor of what typer exports, whichever it is.
    refusal = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    root = root_command()
    try:
        # Not root.main(): it ends the process with code 1 when a reader closes the pipe, and
        # swallows Ctrl-C.
        with root.make_context("edgekit", arguments) as context:
            result = root.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except refusal as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "edgekit"
        message = error.format_message().rstrip(". \n")
        raise UsageError(message[:1].lower() + message[1:], "", f"{path} --help") from error
    return result if isinstance(result, int) else 0


def _fail(error: EdgekitError, code: int, as_json: bool) -> int:
    """Say what is wrong: a line on stderr and, where asked, one document on stdout.

    An error may carry a ``document`` attribute: the command's own result document, which
    is then printed instead (an export that fails on one target still tells of the others).
    """
    from edgekit.cli import output

    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    if as_json:
        document = getattr(error, "document", None) or {
            "error": {
                "what": error.what,
                "why": error.why,
                "next": error.next_step,
                "code": code,
            }
        }
        try:
            output.write_document(document, sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as in main()
    return code


def _before_double_dash(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
