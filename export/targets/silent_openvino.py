"""OpenVINO's converter as a library: without its remarks and its reports to its makers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from edgekit.quiet import quiet

# The converter sends what it was used for to a measuring service, except where this variable
# says that a machine of a CI service runs it; it has no other switch that leaves the user's
# own settings alone. Whoever exports a network has not agreed to reports.
_NO_REPORTS = ("CI", "true")


@contextlib.contextmanager
def silent_converter() -> Iterator[Callable[..., Any]]:
    """``openvino.convert_model``, for as long as it is used."""
    import openvino as ov

    name, value = _NO_REPORTS
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        with quiet():
            yield ov.convert_model
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
