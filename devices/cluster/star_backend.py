"""The cluster's sums as a backend of ``torch.distributed``, for programs that use PyTorch.

::

    from edgekit.devices.cluster import star_backend

    star_backend.register()
    torch.distributed.init_process_group("star")

Rank 0 is the hub. The group's store, which is as safe as where it listens, carries every rank's
certificate; all else goes over TLS between pinned certificates. Tensors are in host memory. An
operation is finished when its call returns, asynchronous ones too.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit.errors import UnsupportedError

from . import secure
from .collectives import Group
from .door import Door
from .identity import Identity, Pinned, fingerprint
from .wire import Channel, PeerLost

if TYPE_CHECKING:
    from datetime import timedelta

    import torch
    from torch.distributed import Store

NAME: Final = "star"
PIECE: Final = 16 << 20  # bytes of a frame; larger tensors go in several
WIRE: Final = "EDGEKIT_STAR_WIRE"  # float32 (default) or float16


def register() -> None:
    """Make ``torch.distributed.init_process_group("star")`` possible; may be called again.

    Raises:
        ImportError: PyTorch is not here.
    """
    import torch.distributed as dist

    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _create, devices=["cpu"])


def _create(store: Store, rank: int, size: int, timeout: timedelta) -> Any:
    """A process group: this process's end of it, with links to the hub."""
    import torch.distributed as dist

    methods = {"size": lambda self: self.group.size, "getBackendName": lambda self: NAME}
    made = type("StarProcessGroup", (dist.ProcessGroup,), _METHODS | methods)(rank, size)
    channels = _rendezvous(store, rank, size, timeout.total_seconds()) if size > 1 else {}
    wire = os.environ.get(WIRE, "float32")
    made.group = Group(rank, size, channels, wire, timeout.total_seconds())
    return made


def _rendezvous(store: Store, rank: int, size: int, seconds: float) -> dict[int, Channel]:
    with tempfile.TemporaryDirectory(prefix="edgekit-star-") as folder:
        identity = Identity.open(Path(folder), f"rank {rank}")
        if rank == 0:
            return _await_ranks(store, identity, size, seconds)
        store.set(f"certificate {rank}", identity.pem)
        place = store.get("hub").decode()
        host, port, pem = place.split(" ", 2)
        hub = Pinned("rank 0", pem)
        channel = secure.call((host, int(port)), identity, hub.der, "rank 0", seconds)
        channel.receive_message(seconds, "hello")
        return {0: channel}


def _await_ranks(store: Store, identity: Identity, size: int, seconds: float) -> dict[int, Channel]:
    came: dict[str, Channel] = {}
    changed = threading.Condition()

    def admit(channel: Channel, name: str, key: str) -> None:
        channel.send_message("hello", seconds)
        with changed:
            came[name] = channel
            changed.notify_all()

    pins = {}
    for rank in range(1, size):
        pinned = Pinned(f"rank {rank}", store.get(f"certificate {rank}").decode())
        pins[fingerprint(pinned.der).hex()] = pinned
    host = _own_address()
    door = Door(identity, lambda: pins, admit, address=(host, 0))
    try:
        store.set("hub", f"{host} {door.address[1]} {identity.pem}")
        until = time.monotonic() + seconds
        with changed:
            while len(came) < size - 1:
                if not changed.wait(max(until - time.monotonic(), 0)):
                    missing = {pin.name for pin in pins.values()} - came.keys()
                    raise PeerLost(", ".join(sorted(missing)), f"silent for {seconds:.0f} s")
    finally:
        door.close()
    return {rank: came[f"rank {rank}"] for rank in range(1, size)}


def _own_address() -> str:
    """This host's address on the way to the store's: where the other ranks find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ.get("MASTER_ADDR", "127.0.0.1"), 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def _done(result: Any) -> Any:
    from torch._C._distributed_c10d import _create_work_from_future
    from torch.futures import Future

    future: Future = Future()
    future.set_result(result)
    return _create_work_from_future(future)


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """A contiguous tensor's memory; of another one, a copy's."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def _fill(tensor: torch.Tensor, data: np.ndarray) -> None:
    """Give a tensor the content that :func:`_bytes` said."""
    import torch

    flat = torch.from_numpy(data).view(tensor.dtype)
    tensor.detach().copy_(flat.reshape(tensor.shape))


def _spread(group: Group, data: np.ndarray, root: int = 0) -> None:
    """``root``'s bytes on every rank, in place."""
    for piece in _pieces(data):
        if root and group.rank == root:
            group.send(0, piece)
        elif root and group.rank == 0:
            group.receive(root, piece)
        group.broadcast(piece)


def _collected(group: Group, data: np.ndarray) -> np.ndarray:
    """Every rank's bytes on every rank: [ranks, bytes]."""
    found = np.empty((group.size, data.size), np.uint8)
    for start in range(0, data.size, PIECE):
        gathered = group.gather(data[start : start + PIECE])
        if gathered is not None:
            found[:, start : start + PIECE] = np.stack(gathered)
    _spread(group, found.reshape(-1))
    return found


def _pieces(data: np.ndarray) -> list[np.ndarray]:
    return [data[start : start + PIECE] for start in range(0, data.size, PIECE)]


def _sum(group: Group, tensor: torch.Tensor, operation: Any) -> None:
    """Reduce one tensor over all ranks, in place."""
    import torch
    import torch.distributed as dist

    kinds = (torch.float32, torch.float16, torch.bfloat16)
    if operation in (dist.ReduceOp.SUM, dist.ReduceOp.AVG) and tensor.dtype in kinds:
        values = tensor.detach().to(torch.float32, copy=True).reshape(-1).numpy()
        for start in range(0, values.size, PIECE // 4):
            group.all_reduce(values[start : start + PIECE // 4])
        if operation == dist.ReduceOp.AVG:
            values /= group.size
        tensor.detach().copy_(torch.from_numpy(values).reshape(tensor.shape))
        return
    rows = torch.from_numpy(_collected(group, _bytes(tensor))).view(tensor.dtype)
    tensor.detach().copy_(_folded(rows, operation).reshape(tensor.shape))


def _folded(rows: torch.Tensor, operation: Any) -> torch.Tensor:
    import torch
    import torch.distributed as dist

    ways = {
        dist.ReduceOp.SUM: lambda: rows.sum(0, dtype=rows.dtype),
        dist.ReduceOp.AVG: lambda: (rows.sum(0) / len(rows)).to(rows.dtype),
        dist.ReduceOp.PRODUCT: lambda: rows.prod(0, dtype=rows.dtype),
        dist.ReduceOp.MIN: lambda: torch.amin(rows, 0),
        dist.ReduceOp.MAX: lambda: torch.amax(rows, 0),
    }
    for known, way in ways.items():
        if operation == known:
            return way()
    raise UnsupportedError(f"{operation} over a star", "there is SUM, AVG, PRODUCT, MIN, MAX")


def _allreduce(self: Any, tensors: list, opts: Any = None) -> Any:
    import torch.distributed as dist

    operation = dist.ReduceOp.SUM if opts is None else opts.reduceOp
    for tensor in tensors:
        _sum(self.group, tensor, operation)
    return _done(tensors)


def _broadcast(self: Any, tensors: list, opts: Any = None) -> Any:
    for tensor in tensors:
        data = _bytes(tensor).copy()
        _spread(self.group, data, 0 if opts is None else opts.rootRank)
        _fill(tensor, data)
    return _done(tensors)


def _barrier(self: Any, opts: Any = None) -> Any:
    self.group.all_reduce(np.zeros(1, np.float32))
    return _done([])


def _allgather(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    for into, tensor in zip(outputs, inputs, strict=True):
        for place, row in zip(into, _collected(self.group, _bytes(tensor)), strict=True):
            _fill(place, row.copy())
    return _done(outputs)


def _allgather_one(self: Any, output: Any, tensor: Any, opts: Any = None) -> Any:
    _fill(output, _collected(self.group, _bytes(tensor)).reshape(-1))
    return _done([output])


def _allgather_several(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    for output, tensor in zip(outputs, inputs, strict=True):
        _allgather_one(self, output, tensor)
    return _done(outputs)


def _gather(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    rows = _collected(self.group, _bytes(inputs[0]))
    if outputs:  # on the root alone
        for place, row in zip(outputs[0], rows, strict=True):
            _fill(place, row.copy())
    return _done(outputs)


def _scatter(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    root, group = (0 if opts is None else opts.rootRank), self.group
    data = np.empty((group.size, _bytes(outputs[0]).size), np.uint8)
    if group.rank == root:
        data = np.stack([_bytes(tensor) for tensor in inputs[0]])
    _spread(group, data.reshape(-1), root)
    _fill(outputs[0], data[group.rank].copy())
    return _done(outputs)


def _reduce_scatter(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    import torch

    for output, parts in zip(outputs, inputs, strict=True):
        whole = torch.stack([part.detach() for part in parts])
        _allreduce(self, [whole], opts)
        output.detach().copy_(whole[self.group.rank].reshape(output.shape))
    return _done(outputs)


def _reduce_scatter_one(self: Any, output: Any, tensor: Any, opts: Any = None) -> Any:
    parts = tensor.detach().reshape(self.group.size, -1)
    return _reduce_scatter(self, [output], [list(parts)], opts)


def _reduce_scatter_several(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    for output, tensor in zip(outputs, inputs, strict=True):
        _reduce_scatter_one(self, output, tensor, opts)
    return _done(outputs)


def _alltoall(self: Any, outputs: list, inputs: list, opts: Any = None) -> Any:
    import torch

    rows = _collected(self.group, _bytes(torch.stack([part.detach() for part in inputs])))
    for place, row in zip(outputs, rows, strict=True):
        _fill(place, row.reshape(self.group.size, -1)[self.group.rank].copy())
    return _done(outputs)


def _send(self: Any, tensors: list, other: int, tag: int = 0) -> Any:
    for tensor in tensors:
        for piece in _pieces(_bytes(tensor)):
            self.group.send(_linked(self.group, other), piece)
    return _done(tensors)


def _receive(self: Any, tensors: list, other: int, tag: int = 0) -> Any:
    for tensor in tensors:
        data = _bytes(tensor).copy()
        for piece in _pieces(data):
            self.group.receive(_linked(self.group, other), piece)
        _fill(tensor, data)
    return _done(tensors)


def _linked(group: Group, other: int) -> int:
    if other not in group.channels:
        raise UnsupportedError(f"rank {group.rank} has no link to rank {other}", "it is a star")
    return other


def _set_name(self: Any, name: str) -> None:
    self.named = name


def _shutdown(self: Any) -> None:
    for channel in self.group.channels.values():
        channel.close()


# PyTorch's names for what a process group does; it has renamed some, and calls the new ones.
_METHODS: Final = {
    "allreduce": _allreduce,
    "allreduce_coalesced": _allreduce,
    "broadcast": _broadcast,
    "barrier": _barrier,
    "allgather": _allgather,
    "all_gather_single": _allgather_one,
    "_allgather_base": _allgather_one,
    "all_gather_single_coalesced": _allgather_several,
    "allgather_into_tensor_coalesced": _allgather_several,
    "gather": _gather,
    "reduce": _allreduce,
    "scatter": _scatter,
    "reduce_scatter": _reduce_scatter,
    "reduce_scatter_single": _reduce_scatter_one,
    "_reduce_scatter_base": _reduce_scatter_one,
    "reduce_scatter_single_coalesced": _reduce_scatter_several,
    "reduce_scatter_tensor_coalesced": _reduce_scatter_several,
    "alltoall": _alltoall,
    "send": _send,
    "recv": _receive,
    # PyTorch asks a group's own backends for its name, and this group has none but itself.
    "_set_group_name": _set_name,
    "group_name": property(lambda self: self.named),
    "shutdown": _shutdown,
    "abort": _shutdown,
}
