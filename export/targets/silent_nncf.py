"""NNCF as a library: without its progress bars, its log, and its reports to its makers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from edgekit.quiet import quiet

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
    # Its progress bars go to stdout, where --json has the floor; its log has its own handlers.
    with quiet(stdout=True, stderr=True):
        import nncf

        yield nncf
