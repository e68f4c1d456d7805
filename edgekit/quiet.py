"""Other people's libraries without their remarks: standard output belongs to ``--json``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(
    *, stdout: bool = False, stderr: bool = False, level: int = logging.WARNING
) -> Iterator[None]:
    """Without warnings and log records up to ``level`` while the block runs.

    What the block changes of the root logger (OpenVINO's converter raises its level, and
    leaves it so if it fails) is undone.

    Args:
        stdout, stderr: whether what is printed there (progress bars, banners) is lost, too.
    """
    root = logging.root
    previous, kept = root.manager.disable, (root.level, root.filters[:], root.handlers[:])
    logging.disable(max(previous, level))
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            if stdout:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if stderr:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.disable(previous)
        root.setLevel(kept[0])
        root.filters[:], root.handlers[:] = kept[1:]
