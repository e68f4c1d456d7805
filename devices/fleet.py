"""Several devices at once: one that fails does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from edgekit.errors import EdgekitError

from .deploy import Parcel, Report, Wishes, deploy, roll_back
from .destination import Destination

AT_ONCE: Final = 8

One = Callable[[Destination, Report], Awaitable[None]]


def deploy_all(
    parcel: Parcel,
    places: Sequence[Destination],
    wishes: Wishes,
    advance: Callable[[int], None] = lambda sent: None,
) -> list[Report]:
    """Deploy to every place; the reports, in the order of the places.

    Args:
        advance: told of every number of bytes that any device took.
    """

    async def one(to: Destination, report: Report) -> None:
        await deploy(parcel, to, wishes, report, advance)

    return asyncio.run(_all(places, one))


def roll_back_all(places: Sequence[Destination], wishes: Wishes) -> list[Report]:
    """Roll every place back; the reports, in the order of the places."""

    async def one(to: Destination, report: Report) -> None:
        await roll_back(to, wishes, report)

    return asyncio.run(_all(places, one))


async def _all(places: Sequence[Destination], one: One) -> list[Report]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def guarded(to: Destination) -> Report:
        report = Report(to.name, to.path)
        async with gate:
            try:
                await one(to, report)
            except EdgekitError as error:
                report.error = error
            except Exception as error:
                # A fault of ours on one device must not take the others' results along.
                what = f"a fault in edgekit, on {to.name}"
                report.error = EdgekitError(what, f"{type(error).__name__}: {error}")
        return report

    return list(await asyncio.gather(*(guarded(to) for to in places)))
