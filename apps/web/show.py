"""From a demo to a page that is served: what the commands of ``edgekit demo`` do last."""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Callable
from typing import Any

from .serve import Address, Listening, listen
from .site import Demo, Site


def show(
    demo: Demo, address: Address, say: Callable[[str], None], *, browser: bool = False
) -> dict[str, Any]:
    """Serve a demo until Ctrl+C.

    Args:
        say: told in a line where the page is. browser: open it there.

    Returns:
        the page's address, the figures at the end, and the demo's own summary.

    Raises:
        UsageError, MissingBackendError, DeviceError: as :func:`~edgekit.apps.web.serve.listen`.
    """
    logging.basicConfig(format="%(message)s")
    listening = listen(Site(demo).application(), address, demo.largest)
    serve(listening, say, browser)
    figures = demo.meter.read().to_json()
    return {"address": listening.url, "figures": figures, **demo.summary()}


def serve(listening: Listening, say: Callable[[str], None], browser: bool = False) -> None:
    """Say where it is, open it if that is wanted, and serve until Ctrl+C."""
    say(f"open {listening.url} in a browser; Ctrl+C ends it")
    if browser:
        webbrowser.open(listening.url)
    listening.run()
