"""One rank of a PyTorch program over the star backend; ``RANK``, ``WORLD_SIZE`` and so on are set.

Prints ``ok`` when everything was as PyTorch computes it in one process.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from edgekit.devices.cluster import star_backend


class FeedForward(nn.Module):
    """The two projections of a transformer's block."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def tensor_parallel(size: int) -> None:
    mesh = init_device_mesh("cpu", (size,))
    torch.manual_seed(0)
    whole = FeedForward()
    split = FeedForward()
    split.load_state_dict(whole.state_dict())
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    split = parallelize_module(split, mesh, plan)
    assert split.up.weight.to_local().shape == (48 // size, 32)
    x = torch.randn(5, 32)
    ours, due = split(x), whole(x)
    torch.testing.assert_close(ours, due, atol=1e-5, rtol=1e-5)
    ours.square().sum().backward()
    due.square().sum().backward()
    gradient = split.up.weight.grad.full_tensor()
    torch.testing.assert_close(gradient, whole.up.weight.grad, atol=1e-4, rtol=1e-4)
    spread = distribute_tensor(x[: 2 * size], mesh, [Shard(0)])
    assert isinstance(spread, DTensor)
    torch.testing.assert_close(spread.redistribute(mesh, [Replicate()]).to_local(), x[: 2 * size])


def operations(rank: int, size: int) -> None:
    total = size * (size + 1) // 2
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.float64):
        ours = torch.full((3,), rank + 1, dtype=dtype)
        dist.all_reduce(ours)
        assert ours.tolist() == [total] * 3, ours
    largest = torch.tensor([rank, -rank])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    assert largest.tolist() == [size - 1, 0]
    mean = torch.tensor([float(rank)])
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    assert mean.item() == (size - 1) / 2
    for root in range(size):
        value = torch.tensor([rank * 10, 7], dtype=torch.int32)
        dist.broadcast(value, root)
        assert value.tolist() == [root * 10, 7]
        part = torch.zeros(2, dtype=torch.bfloat16)
        parts = [torch.full((2,), r + 1.0, dtype=torch.bfloat16) for r in range(size)]
        dist.scatter(part, parts if rank == root else None, root)
        assert part.tolist() == [rank + 1.0] * 2
        found = [torch.zeros(1) for _ in range(size)] if rank == root else None
        dist.gather(torch.tensor([rank * 1.0]), found, root)
        assert rank != root or [one.item() for one in found] == list(range(size))
    rows = [torch.zeros(2, 2) for _ in range(size)]
    dist.all_gather(rows, torch.full((2, 2), float(rank)))
    assert [row[0, 0].item() for row in rows] == list(range(size))
    output = torch.zeros(2)
    dist.reduce_scatter_single(output, torch.arange(2.0 * size))
    assert output.tolist() == [size * 2.0 * rank, size * (2.0 * rank + 1)]
    mixed = [torch.zeros(1) for _ in range(size)]
    dist.all_to_all(mixed, [torch.tensor([rank * 10.0 + r]) for r in range(size)])
    assert [one.item() for one in mixed] == [r * 10.0 + rank for r in range(size)]
    if rank == 0:
        dist.send(torch.tensor([5.0]), 1)
    elif rank == 1:
        got = torch.zeros(1)
        dist.recv(got, 0)
        assert got.item() == 5.0
    dist.barrier()


def main() -> None:
    torch.set_num_threads(1)
    star_backend.register()
    star_backend.register()
    dist.init_process_group("star")
    rank, size = dist.get_rank(), dist.get_world_size()
    assert dist.get_backend() == "star"
    operations(rank, size)
    tensor_parallel(size)
    dist.destroy_process_group()
    print("ok")


if __name__ == "__main__":
    main()
