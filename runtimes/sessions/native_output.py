"""Catch what C++ libraries print, so that it can be told or left out."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch everything written to the process's standard error, also from native code.

    Yields:
        a function that returns what has been caught so far.

    Output of other threads in the meantime is caught as well: keep the block short.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        try:
            kept = os.dup(2)
        except OSError:  # a program without a standard error has nothing to catch
            yield lambda: ""
            return
        os.dup2(caught.fileno(), 2)

        def text() -> str:
            size = os.fstat(caught.fileno()).st_size
            return os.pread(caught.fileno(), size, 0).decode(errors="replace")

        try:
            yield text
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
