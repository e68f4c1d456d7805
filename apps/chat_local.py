"""Where the chat's model comes from: a hub that is there, or a cluster of processes here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from edgekit.errors import DeviceError
from edgekit.paths import state_dir

from ..devices.cluster.local import LocalCluster, LocalSettings
from ..devices.cluster.serving import HTTP_PORT
from ..devices.cluster.split import CLUSTER, split
from .chat_hub import HubClient


def reached(url: str | None, key: str) -> HubClient:
    """A hub, asked once so that a wrong address or key is noticed here.

    Args:
        url: None for this machine's.

    Raises:
        UsageError: it is no address. DeviceError: nobody answers.
        InputError: whoever answers is no hub, or asks for another key.
    """
    hub = HubClient(url or f"http://127.0.0.1:{HTTP_PORT}", key)

    async def ask() -> None:
        async with hub:
            await hub.cluster()

    try:
        asyncio.run(ask())
    except DeviceError as error:
        step = "edgekit cluster serve SPLIT, or --local MODEL for a cluster on this machine"
        raise DeviceError(f"no hub at {hub.url}", error.why, step) from error
    return hub


@contextlib.contextmanager
def local_hub(
    model: str, ranks: int, precision: str, say: Callable[[str], None], **settings: Any
) -> Iterator[HubClient]:
    """The hub of a cluster of processes that lasts as long as the block.

    Args:
        model: a Hugging Face folder, a GGUF file, or a folder of ``edgekit cluster split``; what
            is cut here is cut into equal parts, and goes with the block.
        ranks, precision: of what is cut here. say: told in a line what happens.
        settings: of :class:`~edgekit.devices.cluster.local.LocalSettings`.

    Raises:
        InputError, UsageError, UnsupportedError: as :func:`~edgekit.devices.cluster.split.split`.
        DeviceError: the cluster cannot begin.
    """
    home = state_dir() / "cluster"
    home.mkdir(parents=True, exist_ok=True)
    _clean(home)
    # Not in /tmp, which is often memory: what the devices read from "disk" would be there already.
    with tempfile.TemporaryDirectory(prefix=f"local-{os.getpid()}-", dir=home) as folder:
        parts = Path(model)
        if not (parts / CLUSTER).is_file():
            parts = Path(folder) / "parts"
            split(model, parts, [1] * ranks, precision, say)
        about = LocalSettings(Path(model).resolve().stem, **settings)
        with LocalCluster(parts, Path(folder), about, say) as cluster:
            cluster.wait()
            yield HubClient(cluster.url, cluster.key)


def _clean(home: Path) -> None:
    """Remove what processes left that were killed: parts of a model are large."""
    for folder in home.glob("local-*-*"):
        with contextlib.suppress(ValueError):
            if not psutil.pid_exists(int(folder.name.split("-")[1])):
                shutil.rmtree(folder, ignore_errors=True)
