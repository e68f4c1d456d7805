"""The ONNX Resize operator, opset 11 to 24.

Along each axis a resize is a matrix that depends on sizes alone: which input places an
output place is mixed from. It is computed here from the specification, in float32 as ONNX
Runtime does. Where ``F.interpolate`` would use the same matrices it is called; otherwise
nearest becomes a selection and linear and cubic a product with the matrix, exact on every
target whatever coordinate transform the file asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .onnx_ops import Node, axis_of, integers, literal, operator, to_type

LONGEST = 1 << 15  # places along one axis: matrices are computed on the host
TRANSFORMS = {
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
}


@dataclass(frozen=True)
class Axis:
    """A resize along one axis: ``length`` places become ``count``, ``scale`` times as many."""

    length: int
    count: int
    scale: float
    mode: str
    transform: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude: bool = False
    antialias: bool = False

    def coordinates(self) -> np.ndarray:
        """Where each output place lies on the input's axis; float32, (count,)."""
        i = np.arange(self.count, dtype=np.float32)
        scale, half = np.float32(self.scale), np.float32(0.5)
        if self.transform == "asymmetric":
            return i / scale
        if self.transform == "tf_half_pixel_for_nn":
            return (i + half) / scale
        if self.transform == "align_corners":
            return i * np.float32(self.length - 1) / np.float32(max(self.count - 1, 1))
        if self.transform == "pytorch_half_pixel" and self.count == 1:
            return i
        shift = np.float32(0)
        if self.transform == "half_pixel_symmetric":
            # scale may not divide evenly: keep the middle of both grids together
            adjustment = np.float32(self.count) / (scale * np.float32(self.length))
            shift = np.float32(self.length) / 2 * (1 - adjustment)
        return shift + (i + half) / scale - half

    def places(self) -> np.ndarray:
        """The input place each output place copies (mode nearest); int64, (count,)."""
        x, half = self.coordinates().astype(np.float64), 0.5
        rounded = {
            "round_prefer_floor": np.ceil(x - half),
            "round_prefer_ceil": np.floor(x + half),
            "floor": np.floor(x),
            "ceil": np.ceil(x),
        }[self.nearest]
        return np.clip(rounded, 0, self.length - 1).astype(np.int64)

    def matrix(self) -> np.ndarray:
        """The weight of each input place in each output place; float64, (count, length).

        Only linear reads no further than the border; cubic repeats the border's value, or
        with ``exclude`` leaves out what lies outside and scales the rest up.
        """
        x = self.coordinates().astype(np.float64)
        stretch = max(1.0, 1.0 / self.scale) if self.antialias else 1.0
        if self.mode == "linear" and not self.antialias:
            x = np.clip(x, 0, self.length - 1)
        reach = int(np.ceil((1 if self.mode == "linear" else 2) * stretch))
        taps = np.floor(x).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
        weights = self.kernel((x[:, None] - taps) / stretch)
        if self.exclude:
            weights = np.where((taps >= 0) & (taps < self.length), weights, 0.0)
        weights = weights / weights.sum(axis=1, keepdims=True)
        result = np.zeros((self.count, self.length))
        rows = np.broadcast_to(np.arange(self.count)[:, None], taps.shape)
        np.add.at(result, (rows, np.clip(taps, 0, self.length - 1)), weights)
        return result

    def kernel(self, distance: np.ndarray) -> np.ndarray:
        """The interpolation kernel: a triangle, or Keys' cubic convolution (1981)."""
        d, a = np.abs(distance), self.cubic
        if self.mode == "linear":
            return np.maximum(1.0 - d, 0.0)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    def like_torch(self, align_corners: bool) -> Axis:
        """What ``F.interpolate(size=…)`` computes along this axis."""
        return replace(
            self,
            scale=self.count / self.length,
            transform="align_corners" if align_corners else "half_pixel",
            cubic=-0.75,
            exclude=False,
            antialias=False,
        )


def target_sizes(
    node: Node, x: Tensor, scales: np.ndarray | None, sizes: np.ndarray | None
) -> list[tuple[int, Any, float]]:
    """(axis, new size, scale) for each axis that changes."""
    given = scales if scales is not None and scales.size else sizes
    if given is None or given.size == 0:
        raise node.refuse("it has neither scales nor sizes")
    axes = [axis_of(a, x.ndim) for a in node.get("axes") or range(x.ndim)]
    lengths = [x.shape[a] for a in axes]
    wanted = integers(given)
    if given is scales:
        scaled = zip(axes, lengths, wanted, strict=True)
        return [(a, int(n * s), s) for a, n, s in scaled if s != 1]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [w / n for w, n in zip(wanted, lengths, strict=True)]
        scale = min(ratios) if policy == "not_larger" else max(ratios)
        return [(a, int(scale * n + 0.5), scale) for a, n in zip(axes, lengths, strict=True)]
    changed = [(a, n, w) for a, n, w in zip(axes, lengths, wanted, strict=True) if n != w]
    return [(a, w, w / n) for a, n, w in changed]


@operator("Resize", host=(2, 3))
def resize(
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
) -> Tensor:
    transform = node.get("coordinate_transformation_mode", "half_pixel")
    if transform not in TRANSFORMS:
        raise node.refuse(f"the coordinate transformation {transform} is not supported")
    targets = target_sizes(node, x, scales, sizes)
    if any(not isinstance(n, int) for a, w, _ in targets for n in (x.shape[a], w)):
        raise node.refuse("an axis that it resizes is dynamic", "give that axis a fixed size")
    if any(count > LONGEST for _, count, _ in targets):
        raise node.refuse(f"it makes an axis longer than {LONGEST}")
    axes = {
        axis: Axis(
            x.shape[axis],
            count,
            scale,
            node.get("mode", "nearest"),
            transform,
            node.get("nearest_mode", "round_prefer_floor"),
            node.get("cubic_coeff_a", -0.75),
            bool(node.get("exclude_outside", 0)),
            bool(node.get("antialias", 0)) and scale < 1,
        )
        for axis, count, scale in targets
    }
    if not axes:
        return x
    arguments = torch_arguments(x, axes)
    if arguments is None:
        return resized_by_axis(x, axes)
    size = [axes[i].count if i in axes else x.shape[i] for i in range(2, x.ndim)]
    return F.interpolate(x, size=size, **arguments)


def floors(axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """floor(i · length / count), which is torch's nearest: exact, and rounded as torch does.
    Where they differ other runtimes may round either way."""
    i = np.arange(axis.count)
    ratio = np.float32(axis.length / axis.count)
    return i * axis.length // axis.count, np.floor(i.astype(np.float32) * ratio)


def torch_arguments(x: Tensor, axes: dict[int, Axis]) -> dict[str, Any] | None:
    """The arguments with which ``F.interpolate`` computes the same, or None."""
    rank = x.ndim - 2
    if rank not in (1, 2, 3) or min(axes) < 2:
        return None
    mode = next(iter(axes.values())).mode
    if mode == "nearest":
        same = all(
            np.array_equal(a.places(), places) for a in axes.values() for places in floors(a)
        )
        return {"mode": "nearest"} if same else None
    name = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear"}
    name[("cubic", 2)] = "bicubic"
    if (mode, rank) not in name:
        return None
    for align in (False, True):
        pairs = [(a.matrix(), a.like_torch(align).matrix()) for a in axes.values()]
        if all(np.allclose(own, torchs, rtol=0, atol=1e-6) for own, torchs in pairs):
            return {"mode": name[(mode, rank)], "align_corners": align}
    return None


def resized_by_axis(x: Tensor, axes: dict[int, Axis]) -> Tensor:
    for number, axis in axes.items():
        if axis.mode == "nearest":
            x = x.index_select(number, literal(axis.places()))
            continue
        matrix = to_type(literal(axis.matrix().astype(np.float32)), x.dtype)
        x = torch.matmul(x.transpose(number, -1), matrix.t()).transpose(number, -1)
    return x
