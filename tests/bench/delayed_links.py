"""Network namespaces whose links are late and narrow, with the kernel's own TCP on them.

Where ``tc netem`` is not in the kernel: every namespace has a TUN device, and a small program
(``delay_router.c``) carries packets between them. Needs root, ``ip``, a C compiler and
``/dev/net/tun``.
"""

import contextlib
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
SOURCE = Path(__file__).with_name("delay_router.c")


def address(rank: int) -> str:
    """A namespace's own."""
    return f"10.77.0.{rank + 1}"


def inside(rank: int) -> list[str]:
    """What to put before a command that is to run in a namespace."""
    return ["ip", "netns", "exec", f"edgekit{rank}"]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _open(rank: int) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    name = f"edgekit{rank}"
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    _ip("netns", "add", name)
    _ip("link", "set", name, "netns", name)
    for words in (("addr", "add", f"{address(rank)}/24", "dev", name), ("link", "set", name, "up")):
        _ip("-n", name, *words)
    _ip("-n", name, "link", "set", "lo", "up")
    return device


@contextlib.contextmanager
def delayed(ranks: int, delay_ms: float, bytes_per_second: float = 0) -> Iterator[None]:
    """So many namespaces, each ``delay_ms`` from the others, each way."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "delay_router"
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", program, SOURCE], check=True)
        devices: list[int] = []
        router = None
        try:
            for rank in range(ranks):
                devices.append(_open(rank))
            numbers = [str(int(1000 * delay_ms)), str(bytes_per_second), *map(str, devices)]
            router = subprocess.Popen([program, *numbers], pass_fds=devices)
            yield
        finally:
            if router is not None:
                router.kill()
                router.wait()
            for rank, device in enumerate(devices):
                os.close(device)
                subprocess.run(["ip", "netns", "del", f"edgekit{rank}"], check=False)
