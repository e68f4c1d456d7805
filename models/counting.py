"""Count what a network costs: its parameters, and its multiply-accumulates on given inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> int:
    """Number of parameters; a shared one counts once, buffers do not count.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: Callable[..., Any], *inputs: Any) -> int:
    """Multiply-accumulates of one call, by running it.

    Counted are convolutions (also transposed), linear layers and all other matrix products,
    so attention and recurrent cells too. Not counted, as is the custom: biases, norms,
    activations, pooling, and everything else that is done per element.

    Args:
        module: a network in eval mode, or a bound method of one.
        inputs: what it is called with. Where network and inputs are on the ``meta`` device,
            the shapes are followed and nothing is computed.

    >>> count_macs(nn.Linear(3, 2), torch.zeros(5, 3))
    30
    """
    with torch.no_grad(), _plain_kernels(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Keep PyTorch from fused kernels, which the counter sees as one unknown operator.

    These are oneDNN's LSTM, the fast path of the transformer encoder, and the attention
    kernels for the CPU.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.mkldnn.enabled = mkldnn
