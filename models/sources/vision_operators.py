"""torchvision's operators, where its library does not fit the torch that is here.

timm and transformers import torchvision for picture files and augmentation. Its wheels are
built for CUDA: beside a torch for the CPU the library does not load, and the Python part fails
on the first operator that is missing. The networks themselves use none of them.
"""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

_OPERATORS = {
    name: "(Tensor self) -> Tensor"
    for name in (
        "nms",
        "roi_align",
        "roi_pool",
        "ps_roi_align",
        "ps_roi_pool",
        "deform_conv2d",
        "_roi_align_backward",
        "_roi_pool_backward",
        "_ps_roi_align_backward",
        "_ps_roi_pool_backward",
        "_deform_conv2d_backward",
        "qnms",
        "qroi_align",
    )
}


def declare_vision_operators() -> None:
    """Declare what torchvision's library would, if that library does not load.

    Networks that really use these operators then fail when they call them, not before.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or "torchvision" in sys.modules:
        return
    for file in Path(spec.origin).parent.glob("_C*.so"):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(file))
    for operator, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", schema)
