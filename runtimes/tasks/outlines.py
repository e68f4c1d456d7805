"""Outlines of the boxes that were kept: the masks graph, once for each class that has one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from ..detector_head import Candidates
from ..detector_prompts import check_contract
from ..sessions.base import Session
from .picture_input import Geometry

_MAPS = ("features_2x", "features_4x")


def draw_outlines(
    session: Session,
    maps: Mapping[str, np.ndarray],
    found: Candidates,
    kept: np.ndarray,
    text: tuple[np.ndarray, np.ndarray],
    geometry: Geometry,
) -> tuple[tuple[np.ndarray, ...], int]:
    """The outline of every kept box.

    Args:
        session: of the masks graph. maps: outputs of the vision graph.
        found: all candidates, with what outlines are drawn of. kept: indices into them.
        text: features and masks of all classes. geometry: where the picture lies.

    Returns:
        boolean (height, width) arrays of the picture's size, one for each of ``kept``, and how
        often the graph ran.
    """
    check_contract(session, (*_MAPS, "memory", "queries", "text_features", "attention_mask"), ())
    outlines: list[np.ndarray] = [np.zeros((0, 0), bool)] * len(kept)
    classes = found.classes[kept]
    present = np.unique(classes).tolist()
    for index in present:
        places = np.flatnonzero(classes == index)
        extras = found.extras[index]
        inputs = {
            **{name: maps[name] for name in _MAPS},
            "memory": extras["memory"],
            "queries": extras["queries"][:, found.queries[kept[places]]],
            "text_features": text[0][index : index + 1],
            "attention_mask": text[1][index : index + 1],
        }
        cast = {s.name: np.ascontiguousarray(inputs[s.name], s.dtype) for s in session.inputs}
        (logits,) = session.run(cast).values()
        for place, drawn in zip(places.tolist(), logits[0], strict=True):
            outlines[place] = to_picture(drawn, geometry)
    return tuple(outlines), len(present)


def to_picture(logits: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Logits over the network's input, enlarged bilinearly to the picture: above 0 is inside."""
    height, width = geometry.input
    rows, columns = logits.shape
    # Of a letterboxed picture, only the part that is not padding.
    box = (0, 0, columns * geometry.valid[1] / width, rows * geometry.valid[0] / height)
    picture = Image.fromarray(logits.astype(np.float32))
    size = (geometry.source[1], geometry.source[0])
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box)) > 0
