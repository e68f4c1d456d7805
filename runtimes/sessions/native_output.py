"""Catch what C++ libraries print, so that it can be told or left out."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch everything written to the process's standard error, also from native code.

    Yields:
        a function that returns what has been caught so far.

    Output of other threads in the meantime is caught as well: keep the block short.
    """
    with (
        tempfile.TemporaryFile() as caught,
        _descriptor_redirected(2, caught.fileno()),
        # Python's own stream is another one where somebody has replaced it.
        open(caught.fileno(), "w", closefd=False) as stream,
        redirect_stderr(stream),
    ):

        def text() -> str:
            stream.flush()
            size = os.fstat(caught.fileno()).st_size
            return os.pread(caught.fileno(), size, 0).decode(errors="replace")

        yield text


@contextmanager
def _descriptor_redirected(number: int, target: int) -> Iterator[None]:
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(number)
    except OSError:  # a program without a standard error has nothing to redirect
        yield
        return
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
