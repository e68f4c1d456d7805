"""What a DART detector deploys: its graphs, its task and its registry entries.

DART runs SAM 3 as a detector of many classes at once: the vision backbone looks at a picture
once, whatever the number of classes, prompts are embedded once and kept, and the detection
graph is batched over classes (the DART project's README; arXiv:2511.16719 for SAM 3). Nothing
here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.manifest import TaskInfo

from .spec import LABELS, GraphSpec, InputSpec, ModelSpec

VISION, TEXT, DETECTION, MASKS = "vision", "text", "detection", "masks"
TOKENIZER = "assets/tokenizer.json"
KIND = "prompted-detection"
FLOAT_BYTES = 4


@dataclass(frozen=True)
class DartSize:
    """The sizes that graphs and memory depend on; defaults are SAM 3's.

    Attributes:
        image: height and width of the picture in pixels, a multiple of ``patch``.
        patch: pixels a token. width: channels of the feature maps and of the text.
        heads: attention heads of the detection part. queries: boxes a class.
        tokens: length of a prompt. vocabulary: number of token ids.
        classes: how many the detection graph takes at once, at most.
    """

    image: tuple[int, int] = (1008, 1008)
    patch: int = 14
    width: int = 256
    heads: int = 8
    queries: int = 200
    tokens: int = 32
    vocabulary: int = 49408
    classes: int = 4

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the feature map."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def class_bytes(self) -> int:
        """What one class more costs in the detection graph: the two largest tensors, in fp32.

        They are the scores of one self-attention over the feature map before and after their
        softmax; everything else is small beside them, and a runtime frees layer after layer.
        """
        places = self.grid[0] * self.grid[1]
        return 2 * self.heads * places * places * FLOAT_BYTES


SIZES: Mapping[str, DartSize] = {
    "sam3": DartSize(),
    "sam3-tiny": DartSize(
        image=(224, 224), width=64, heads=4, queries=20, vocabulary=514, classes=16
    ),
}


def graphs_of(size: DartSize, masks: bool = False) -> tuple[GraphSpec, ...]:
    """The graphs of a detector of this size.

    ``vision`` gives the feature map once a picture, ``text`` embeds prompts, ``detection``
    answers for N classes at once; with ``masks`` a fourth graph draws the outlines of the
    boxes of one class that were kept, and the others hand on what it needs.
    """
    rows, columns = size.grid
    features = InputSpec("features", "float32", (1, size.width, rows, columns))
    text = InputSpec("text_features", "float32", (2, size.tokens, size.width))
    # A prompt's first token is always there; a random mask that hides all of it would not be
    # one of a prompt.
    mask = InputSpec("attention_mask", "int64", (2, size.tokens), low=0, high=2)
    batch = {0: (1, size.classes)}
    vision = GraphSpec(
        VISION,
        (InputSpec("image", "float32", (1, 3, *size.image)),),
        ("features", "features_2x", "features_4x") if masks else ("features",),
        method=VISION,
    )
    prompts = GraphSpec(
        TEXT,
        (
            InputSpec("input_ids", "int64", (2, size.tokens), high=size.vocabulary),
            InputSpec("attention_mask", "int64", (2, size.tokens), low=1, high=2),
        ),
        ("text_features",),
        method=TEXT,
        dynamic={"input_ids": batch, "attention_mask": batch},
    )
    detection = GraphSpec(
        DETECTION,
        (features, text, mask),
        ("boxes", "logits", "presence", *(("queries", "memory") if masks else ())),
        method="detection_for_masks" if masks else DETECTION,
        dynamic={"text_features": batch, "attention_mask": batch},
    )
    return (vision, prompts, detection, *((_masks_graph(size),) if masks else ()))


def _masks_graph(size: DartSize) -> GraphSpec:
    rows, columns = size.grid
    maps = tuple(
        InputSpec(name, "float32", (1, size.width, rows * scale, columns * scale))
        for name, scale in (("features_2x", 2), ("features_4x", 4))
    )
    return GraphSpec(
        MASKS,
        (
            *maps,
            InputSpec("memory", "float32", (1, rows * columns, size.width)),
            InputSpec("queries", "float32", (1, 2, size.width)),
            InputSpec("text_features", "float32", (1, size.tokens, size.width)),
            InputSpec("attention_mask", "int64", (1, size.tokens), low=1, high=2),
        ),
        ("masks",),
        method=MASKS,
        dynamic={"queries": {1: (1, size.queries)}},
    )


def task_of(size: DartSize, masks: bool = False) -> TaskInfo:
    """A picture and the names of classes in, boxes out (see the task ``prompted-detection``)."""
    params: dict[str, Any] = {
        "graph": VISION,
        "input": "image",
        "resolution": list(size.image),
        "fit": "stretch",
        "interpolation": "bilinear",
        "scale": 1 / 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "channels": "RGB",
        "labels": LABELS,
        "tokenizer": TOKENIZER,
        "tokens": size.tokens,
        "score_threshold": 0.3,
        "iou_threshold": 0.7,
        "max_detections": 100,
        "class_bytes": size.class_bytes,
    }
    if masks:
        params["masks"] = MASKS
    return TaskInfo(kind=KIND, params=params)


def entry(
    name: str,
    size: str,
    parameters: int,
    macs: int,
    masks: bool = False,
    skip: Sequence[int] = (),
) -> ModelSpec:
    """A registry entry: the detector ``size``, with outlines, or with blocks left out."""
    options: dict[str, Any] = {}
    if masks:
        options["masks"] = True
    if skip:
        options["skip"] = tuple(skip)
    return ModelSpec(
        name=name,
        builder="edgekit.models.dart:build",
        builder_args=(size,),
        builder_options=options,
        graphs=graphs_of(SIZES[size], masks),
        task=task_of(SIZES[size], masks),
        parameters=parameters,
        macs=macs,
        paper="SAM 3, arXiv:2511.16719, run as the DART project does",
        licence="code Apache-2.0 (transformers), weights SAM License",
        assets={LABELS: "coco80.txt"},
        heads=(KIND,),
        changes=("skip", "student"),
    )


# Every second block that attends within windows: half of SAM 3's backbone, all of whose blocks
# that see the whole picture stay. Which blocks matter least in trained weights is to be
# measured (see the recipe distil_dart); this choice needs no data.
_HALF = tuple(range(0, 32, 2))

ENTRIES = (
    entry("sam3", "sam3", 840_376_374, 2_999_532_123_136),
    entry("sam3-masks", "sam3", 840_376_374, 3_168_875_181_056, masks=True),
    entry("sam3-half", "sam3", 617_855_030, 1_749_293_986_816, skip=_HALF),
    entry("sam3-tiny", "sam3-tiny", 1_158_190, 181_495_040),
    entry("sam3-tiny-masks", "sam3-tiny", 1_158_190, 592_561_408, masks=True),
)
"""What the registry has of this family."""
