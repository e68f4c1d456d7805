"""From coarse class logits to the class of every pixel of a picture."""

from __future__ import annotations

import math

import numpy as np


def label_map(
    logits: np.ndarray, size: tuple[int, int], extent: tuple[float, float] | None = None
) -> np.ndarray:
    """The class with the largest logit at every pixel, logits interpolated bilinearly.

    The same as upsampling all logits to ``size`` (half-pixel centres, as in PyTorch with
    ``align_corners=False``) and taking the argmax. That would need classes * height * width
    numbers: 7 GB for 150 classes and 12 megapixels. But between four places of one class no
    other class can win, since interpolation is a weighted mean; so logits are interpolated
    row by row, and only at the pixels whose four neighbours differ.

    Args:
        logits: (classes, h, w), finite. size: (height, width) of the answer.
        extent: how many rows and columns of the logits the picture covers, from the top
            left; the rest is padding, and never looked at. None: all.

    Returns:
        ``size`` class indices, uint8 for up to 256 classes and uint16 above.
    """
    extent = extent or (float(logits.shape[1]), float(logits.shape[2]))
    rows, columns = (math.ceil(length) for length in extent)
    kind = np.uint8 if len(logits) <= 1 << 8 else np.uint16
    # Classes last: the argmax of a place reads neighbours in memory.
    cells = np.ascontiguousarray(logits[:, :rows, :columns].transpose(1, 2, 0), np.float32)
    best = cells.argmax(2).astype(kind)
    top, below, down = _neighbours(size[0], extent[0], rows)
    left, right, across = _neighbours(size[1], extent[1], columns)
    answer = np.empty(size, kind)
    for row in range(size[0]):
        upper, lower = best[top[row]], best[below[row]]
        line = answer[row]
        line[:] = upper[left]
        differ = (line != upper[right]) | (line != lower[left]) | (line != lower[right])
        if differ.any():
            places = np.flatnonzero(differ)
            between = cells[top[row]] + (cells[below[row]] - cells[top[row]]) * down[row]
            here = between[left[places]]
            here += (between[right[places]] - here) * across[places, None]
            line[places] = here.argmax(1)
    return answer


def _neighbours(length: int, extent: float, cells: int) -> tuple[np.ndarray, ...]:
    """Of each of ``length`` pixels the cell before it, the one after it, and how far between."""
    place = (np.arange(length) + 0.5) * (extent / length) - 0.5
    place = np.clip(place, 0, cells - 1)
    before = place.astype(np.intp)
    after = np.minimum(before + 1, cells - 1)
    return before, after, (place - before).astype(np.float32)
