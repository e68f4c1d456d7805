"""Time the precisions of one network in one run, and remember the figures under the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.measurements import save, save_precisions

from ..devices.bench import benchmark_precisions
from ..quant.comparison import CHOSEN


def time_precisions(bundles: Mapping[str, Path]) -> None:
    """Measure all of them in turns; the rows of the chosen one are kept as its own, too.

    Args:
        bundles: by precision, the one that the comparison is for under ``CHOSEN``.

    Raises:
        EdgekitError: nothing can be fed to them, or the store cannot be written.
    """
    with ExitStack() as stack:
        opened = {name: stack.enter_context(Bundle.open(path)) for name, path in bundles.items()}
        rows, machine = benchmark_precisions(opened)
        digest = opened[CHOSEN].digest
    save_precisions(digest, rows, machine)
    own = [
        {key: value for key, value in row.items() if key != "variant"}
        for row in rows
        if row["variant"] == CHOSEN
    ]
    if own:
        save(digest, own, machine)
