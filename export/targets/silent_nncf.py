"""NNCF as a library: without its progress bars, its log, and its reports to its makers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

from .need import need

# NNCF sends what it was used for to a measuring service unless one of its own variables is set
# when it is first imported. Whoever exports a network has not agreed to that.
_NO_REPORTS = "NNCF_CI"


@contextlib.contextmanager
def silent_nncf() -> Iterator[Any]:
    """The module, for as long as it is used.

    Raises:
        MissingBackendError: NNCF is not installed.
    """
    need("nncf", "quant", "NNCF, which quantises for OpenVINO")
    os.environ.setdefault(_NO_REPORTS, "1")
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it has handlers of its own
    try:
        # Its progress bars go to stdout, where --json has the floor.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import nncf

            yield nncf
    finally:
        logging.disable(previous)
