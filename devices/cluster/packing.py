"""How a matrix lies in a shard: panels of sixteen rows, in the order a processor reads them.

A panel holds sixteen output rows side by side, so that one vector register holds one step of
sixteen dot products, nothing is summed across a register, and memory is read from front to back.
Columns are padded with zeros to a multiple of 64, rows to one of 16. Within a panel:

======  =============================================================================
fp32    for each column: 16 numbers
bf16    for each pair of columns: 16 times two halves
int8    for each 64 columns: 2 x 16 scales (fp16), then for each 4 columns 16 x 4 bytes.
        A byte is the weight over its scale, plus 128
int4    for each 32 columns: 16 scales and 16 least values (fp16), then for each 8 columns
        16 x 4 bytes: low halves the first 4 columns, high halves the others. A weight is
        the least value plus the half byte times the scale
======  =============================================================================

A scale belongs to 32 columns of one row. int4 keeps llama.cpp's Q4_1 as it is: where the weights
are such numbers, their groups' least and largest values give back the same scales.
"""

from __future__ import annotations

from typing import Final

import numpy as np

PRECISIONS: Final = ("fp32", "bf16", "int8", "int4")
PANEL: Final = 16
GROUP: Final = 32
COLUMNS: Final = 64  # a row's columns are padded to a multiple of it
_BYTES_OF_64: Final = {"fp32": 4096, "bf16": 2048, "int8": 1088, "int4": 640}  # in a panel
_SMALLEST: Final = float(np.finfo(np.float16).smallest_subnormal)


def padded(columns: int) -> int:
    """Columns as stored.

    >>> padded(65)
    128
    """
    return -(-columns // COLUMNS) * COLUMNS


def packed_bytes(kind: str, rows: int, columns: int) -> int:
    """Bytes of a packed matrix."""
    return -(-rows // PANEL) * panel_bytes(kind, columns)


def panel_bytes(kind: str, columns: int) -> int:
    """Bytes of sixteen rows."""
    return padded(columns) // COLUMNS * _BYTES_OF_64[kind]


def pack(matrix: np.ndarray, kind: str) -> np.ndarray:
    """A matrix in panels.

    Args:
        matrix: (rows, columns), float32.
        kind: One of :data:`PRECISIONS`.

    Returns:
        uint8, (panels, bytes of a panel).
    """
    rows, columns = matrix.shape
    panels, width = -(-rows // PANEL), padded(columns)
    whole = np.zeros((panels * PANEL, width), np.float32)
    whole[:rows, :columns] = matrix
    # Panels, columns, rows: what is multiplied by one input lies together.
    turned = whole.reshape(panels, PANEL, width)
    if kind == "fp32":
        packed = turned.transpose(0, 2, 1)
    elif kind == "bf16":
        packed = narrowed(turned).reshape(panels, PANEL, width // 2, 2).transpose(0, 2, 1, 3)
    elif kind == "int8":
        return _pack_int8(turned)
    else:
        return _pack_int4(turned)
    return np.ascontiguousarray(packed).view(np.uint8).reshape(panels, -1)


def unpack(packed: np.ndarray, kind: str, rows: int, columns: int) -> np.ndarray:
    """The float32 matrix (rows, columns) that a packed one stands for."""
    panels, width = -(-rows // PANEL), padded(columns)
    packed = packed.reshape(panels, -1)
    if kind == "fp32":
        whole = packed.view(np.float32).reshape(panels, width, PANEL).transpose(0, 2, 1)
    elif kind == "bf16":
        halves = packed.view(np.uint16).reshape(panels, width // 2, PANEL, 2)
        whole = (halves.astype(np.uint32) << 16).view(np.float32).transpose(0, 2, 1, 3)
    elif kind == "int8":
        whole = _unpack_int8(packed, width)
    else:
        whole = _unpack_int4(packed, width)
    return np.ascontiguousarray(whole.reshape(panels * PANEL, width)[:rows, :columns])


def narrowed(values: np.ndarray) -> np.ndarray:
    """float32 as bfloat16, rounded to nearest even, in 16-bit integers.

    >>> hex(narrowed(np.array([1.0], np.float32))[0])
    '0x3f80'
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _pack_int8(turned: np.ndarray) -> np.ndarray:
    panels, _, width = turned.shape
    grouped = turned.reshape(panels, PANEL, width // GROUP, GROUP)
    scale = _as_scale(np.abs(grouped).max(-1) / 127)
    whole = np.rint(grouped / scale.astype(np.float32)[..., None])
    stored = (np.clip(whole, -127, 127) + 128).astype(np.uint8)
    out = np.empty((panels, width // COLUMNS, 1088), np.uint8)
    scales = scale.transpose(0, 2, 1).reshape(panels, width // COLUMNS, 2 * PANEL)
    out[..., :64] = np.ascontiguousarray(scales).view(np.uint8)
    quads = stored.reshape(panels, PANEL, width // 4, 4).transpose(0, 2, 1, 3)
    out[..., 64:] = quads.reshape(panels, width // COLUMNS, 1024)
    return out.reshape(panels, -1)


def _unpack_int8(packed: np.ndarray, width: int) -> np.ndarray:
    panels = len(packed)
    blocks = packed.reshape(panels, width // COLUMNS, 1088)
    scale = np.ascontiguousarray(blocks[..., :64]).view(np.float16)
    scale = scale.reshape(panels, width // GROUP, PANEL).transpose(0, 2, 1)
    stored = np.ascontiguousarray(blocks[..., 64:]).reshape(panels, width // 4, PANEL, 4)
    whole = stored.transpose(0, 2, 1, 3).reshape(panels, PANEL, width // GROUP, GROUP)
    return (whole.astype(np.float32) - 128) * scale.astype(np.float32)[..., None]


def _pack_int4(turned: np.ndarray) -> np.ndarray:
    panels, _, width = turned.shape
    grouped = turned.reshape(panels, PANEL, width // GROUP, GROUP)
    least = grouped.min(-1).astype(np.float16)
    span = grouped.max(-1) - least.astype(np.float32)
    scale = _as_scale(span / 15)
    whole = grouped - least.astype(np.float32)[..., None]
    whole = np.rint(whole / scale.astype(np.float32)[..., None])
    stored = np.clip(whole, 0, 15).astype(np.uint8)
    out = np.empty((panels, width // GROUP, 320), np.uint8)
    out[..., :32] = np.ascontiguousarray(scale.transpose(0, 2, 1)).view(np.uint8)
    out[..., 32:64] = np.ascontiguousarray(least.transpose(0, 2, 1)).view(np.uint8)
    # Panels, groups, eights, halves of an eight, rows, four columns.
    eights = stored.reshape(panels, PANEL, width // GROUP, 4, 2, 4).transpose(0, 2, 3, 4, 1, 5)
    both = eights[:, :, :, 0] | (eights[:, :, :, 1] << 4)
    out[..., 64:] = both.reshape(panels, width // GROUP, 256)
    return out.reshape(panels, -1)


def _unpack_int4(packed: np.ndarray, width: int) -> np.ndarray:
    panels, groups = len(packed), width // GROUP
    blocks = packed.reshape(panels, groups, 320)
    head = np.ascontiguousarray(blocks[..., :64]).view(np.float16).astype(np.float32)
    scale, least = (head.reshape(panels, groups, 2, PANEL)[:, :, one] for one in (0, 1))
    both = blocks[..., 64:].reshape(panels, groups, 4, PANEL, 4)
    eights = np.stack([both & 15, both >> 4], 3)  # panels, groups, eights, halves, rows, 4
    whole = eights.transpose(0, 4, 1, 2, 3, 5).reshape(panels, PANEL, groups, GROUP)
    scale, least = (one.transpose(0, 2, 1)[..., None] for one in (scale, least))
    return whole.astype(np.float32) * scale + least


def _as_scale(values: np.ndarray) -> np.ndarray:
    """As fp16, and never zero: a group of equal weights is divided by it."""
    return np.maximum(values, _SMALLEST).astype(np.float16)


def bits_a_weight(kind: str) -> float:
    """What a weight costs, scales included.

    >>> bits_a_weight("int4"), bits_a_weight("int8")
    (5.0, 8.5)
    """
    return _BYTES_OF_64[kind] * 8 / (PANEL * COLUMNS)
