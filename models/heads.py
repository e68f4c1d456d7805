"""What a network of the registry may end in, and what each ending deploys.

``classification`` is what the families were trained for; the others stand on the same backbone
(see :mod:`.dense_heads`). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgekit.errors import UsageError
from edgekit.manifest import TaskInfo

from .spec import LABELS, ModelSpec

CLASSIFICATION = "classification"
DENSE_RESOLUTION = 512  # at which the papers time detection and segmentation

# RetinaNet's anchors: arXiv:1708.02002, section 4.
_ANCHORS = {
    "strides": [8, 16, 32, 64, 128],
    "octave_base_scale": 4.0,
    "scales_per_octave": 3,
    "ratios": [0.5, 1.0, 2.0],
}
_ANCHORS_PER_PIXEL = 9


@dataclass(frozen=True)
class Head:
    """One way to end.

    Attributes:
        task: kind of the task; params: what it adds to the parameters of the picture.
        outputs: of the graph, in order.
        classes: how many by default; None where the head tells nothing apart.
        labels: their names, a file in ``models/assets``.
        rows: a tensor of the state dict and how many of its rows stand for one class, by
            which a checkpoint shows how many classes it was trained for.
    """

    task: str
    outputs: tuple[str, ...]
    params: Mapping[str, Any]
    classes: int | None = None
    labels: str | None = None
    rows: tuple[str, int] | None = None


HEADS: Mapping[str, Head] = {
    "features": Head(
        task="features",
        outputs=("stage1", "stage2", "stage3", "stage_final"),
        params={"outputs": ["stage1", "stage2", "stage3", "stage_final"]},
    ),
    "retinanet": Head(
        task="detection",
        outputs=("class_logits", "box_deltas"),
        params={
            "outputs": {"scores": "class_logits", "boxes": "box_deltas"},
            "decoder": "anchors",
            "anchors": _ANCHORS,
            "score_threshold": 0.05,
            "candidates": 1000,
            "iou_threshold": 0.5,
            "max_detections": 100,
        },
        classes=80,
        labels="coco80.txt",
        rows=("bbox_head.retina_cls.bias", _ANCHORS_PER_PIXEL),
    ),
    "semantic-fpn": Head(
        task="segmentation",
        outputs=("logits",),
        params={"output": "logits"},
        classes=150,
        labels="ade20k150.txt",
        rows=("decode_head.conv_seg.bias", 1),
    ),
}


def with_head(entry: ModelSpec, head: str | None = None, classes: int | None = None) -> ModelSpec:
    """The registry's entry, ending otherwise.

    Args:
        entry: as registered.
        head: one of ``entry.heads``; None: the first, in which it is registered.
        classes: how many are told apart; None: the head's own number. Names of classes are
            kept only where the number is the head's own.

    Raises:
        UsageError: the model has no such head, or the head has no classes.
    """
    head = head or entry.heads[0]
    if head not in entry.heads:
        raise UsageError(f"{entry.name} has no head {head}", f"it has {', '.join(entry.heads)}")
    if classes is not None and classes < 1:
        raise UsageError(f"{classes} classes are none", "", "give 1 or more")
    if head == entry.heads[0]:
        if classes is not None and entry.classes is None:
            raise UsageError(f"{entry.name} has no fixed classes", "", "leave --classes out")
        return _with_classes(entry, entry.classes, classes, entry.builder_options)
    found = HEADS[head]
    if classes is not None and found.classes is None:
        raise UsageError(f"the head {head} tells no classes apart", "", "leave --classes out")
    dense = replace(
        entry,
        graphs=tuple(_dense_graph(graph, found) for graph in entry.graphs),
        task=TaskInfo(kind=found.task, params={**_picture(entry.task), **found.params}),
        rows=found.rows,
        assets={LABELS: found.labels} if found.labels else {},
        macs=None,
        parameters=0,
    )
    if found.labels:
        dense = replace(dense, task=_labelled(dense.task, LABELS))
    return _with_classes(dense, found.classes, classes, {"head": head})


def count_classes(entry: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many classes a checkpoint with tensors of these shapes tells apart; None: no saying."""
    key, rows = entry.rows or ("", 1)
    shape = shapes.get(key)
    return shape[0] // rows if shape and shape[0] % rows == 0 else None


def _with_classes(
    entry: ModelSpec, own: int | None, classes: int | None, options: Mapping[str, Any]
) -> ModelSpec:
    if classes is None or classes == own:
        return replace(entry, builder_options=options)
    return replace(
        entry,
        builder_options={**options, "classes": classes},
        task=_labelled(entry.task, None),
        assets={},
        macs=None,
        parameters=0,
    )


def _labelled(task: TaskInfo, labels: str | None) -> TaskInfo:
    params = {key: value for key, value in task.params.items() if key != "labels"}
    if labels:
        params["labels"] = labels
    return task.model_copy(update={"params": params})


def _dense_graph(graph: Any, head: Head) -> Any:
    (image,) = graph.inputs
    size = (DENSE_RESOLUTION, DENSE_RESOLUTION)
    image = replace(image, shape=(*image.shape[:2], *size))
    return replace(graph, inputs=(image,), outputs=head.outputs)


def _picture(task: TaskInfo) -> dict[str, Any]:
    """How a picture becomes the input: as for the classifier, but whole and in proportion."""
    kept = ("input", "scale", "mean", "std", "channels")
    return {
        **{key: task.params[key] for key in kept},
        "resolution": DENSE_RESOLUTION,
        "fit": "letterbox",
        "interpolation": "bilinear",
    }
