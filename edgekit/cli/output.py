"""What a command prints, and where: results on stdout, everything else on stderr.

Native libraries print to file descriptor 1 behind Python's back, and Python libraries to
``sys.stdout``. Neither may reach whoever parses our results, so :func:`claim_stdout` keeps
the real stdout for us, and :class:`Output` sends what others print to stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 160  # columns where there is no terminal to ask


def claim_stdout() -> None:
    """Point file descriptor 1 at stderr, and ``sys.stdout`` at what 1 was.

    For the whole process, not only while a command works: a native library may flush its
    own buffer as late as at exit.
    """
    try:
        if sys.stdout.fileno() != 1 or sys.stderr.fileno() != 2:
            return
        real = os.dup(1)
        os.dup2(2, 1)
    except (AttributeError, OSError, ValueError):
        return  # one of the two is closed: there is nothing to keep apart
    sys.stdout = os.fdopen(real, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def plain(value: Any) -> Any:
    """``value`` as what JSON can say: NumPy scalars and arrays as numbers and lists, paths
    as text, pydantic records as objects, NaN and infinities as the strings ``"NaN"``,
    ``"Infinity"`` and ``"-Infinity"`` (JSON has no such numbers; the manifest does the same).

    Raises:
        TypeError: there is something else in it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if hasattr(value, "tolist"):  # NumPy, known without importing it
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(document: Any) -> str:
    """One JSON document, indented, with a newline at its end."""
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_document(document: Any, stream: TextIO) -> None:
    """Write one JSON document to ``stream``."""
    stream.write(dumps(document))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path`` and rename it: whole or not at all.

    Raises:
        UsageError: nothing can be written there.
    """
    part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be what is missing
            part.unlink(missing_ok=True)


class Output:
    """How one command talks. Use it around all of the command's work::

        with Output(json, quiet) as out:
            with out.status("Measuring"):
                figures = measure()
            out.result(figures, lambda console: console.print(table_of(figures)))

    Inside, ``sys.stdout`` is stderr: what libraries print stays out of the results.
    """

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet

    def __enter__(self) -> Output:
        self._results = sys.stdout
        self._redirection = contextlib.redirect_stdout(sys.stderr)
        self._redirection.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._redirection.__exit__(*exc)
        self._results.flush()

    def result(self, document: Any, show: Callable[[Console], None]) -> None:
        """Print the command's result: ``document`` under ``--json``, else what ``show``
        draws on the console it is given."""
        if self.json:
            write_document(document, self._results)
        else:
            show(_console(self._results))

    def stream(self, text: str) -> None:
        """Print a piece of a result that grows."""
        self._results.write(text)
        self._results.flush()

    def note(self, text: str) -> None:
        """A line on stderr that ``--quiet`` leaves out."""
        if not self.quiet:
            _line(text)

    def warn(self, text: str) -> None:
        """A line on stderr that is always shown."""
        _line(f"warning: {text}")

    @contextlib.contextmanager
    def status(self, text: str) -> Iterator[None]:
        """A spinner on stderr while something takes its time."""
        if not self._lively:
            yield
            return
        with _console(sys.stderr).status(text):
            yield

    @contextlib.contextmanager
    def steps(self) -> Iterator[Callable[[str], None]]:
        """Steps of long work on stderr: the function it gives names the one that begins.

        On a terminal a spinner with the latest; elsewhere, unless ``--quiet``, a line each.
        """
        if not self._lively:
            yield self.note
            return
        with _console(sys.stderr).status("Starting") as status:
            yield status.update

    @contextlib.contextmanager
    def progress(self, text: str, total: int | None) -> Iterator[Callable[[], None]]:
        """A progress bar on stderr; the function it gives advances it by one.

        Where nobody knows the ``total``, the bar only shows that there is life.
        """
        if not self._lively:
            yield lambda: None
            return
        from rich.progress import Progress

        with Progress(console=_console(sys.stderr), transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda: bar.advance(task)

    @property
    def _lively(self) -> bool:
        return not (self.quiet or self.json) and sys.stderr.isatty()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """A table for people. A column whose name starts with ``>`` is aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made


def size(count: int | None) -> str:
    """A number of bytes for people, in decimal units: ``12.3 MB``."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f} {unit}"


def _line(text: str) -> None:
    # One write: `print` writes the end of the line apart, and another thread's line between.
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Our text holds shapes like [1, 3, 224, 224]: rich must not read them as markup.
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not stream.isatty(),
        width=None if stream.isatty() else PIPE_WIDTH,
    )
