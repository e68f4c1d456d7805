"""DART: SAM 3 as a detector of many classes, as graphs around transformers' ``Sam3Model``.

There is no architecture code here: every method calls the parts of ``Sam3Model`` that it needs,
in the order of ``Sam3Model.forward``, which calls all of them for one class at a time. What is
gained is that the backbone runs once a picture and prompts are embedded once at all.

State dict keys are those of ``facebook/sam3`` as transformers has them, so official checkpoints
load: those of the detector alone, and those of the video model, whose tracker is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import UsageError

from .dart_config import DEPTHS, Depths, make
from .dart_graphs import SIZES, TOKENIZER, DartSize, graphs_of, task_of
from .dart_tokenizer import tokenizer_of
from .spec import LABELS, LoadedModel

if TYPE_CHECKING:
    from transformers import Sam3Model

_DETECTOR = "detector_model."  # where the video model has the detector
_TRACKER = ("tracker_model.", "tracker_neck.")
_BLOCK = "vision_encoder.backbone.layers."

# Indices into SAM 3's pyramid, whose scales are 4, 2, 1 and 0.5 of the token grid. Detection
# takes the third; the fourth is never used.
_LEVEL, _LEVELS_FOR_MASKS = 2, (2, 1, 0)


# What is added to the score of a token that is not to be seen. Its exponential is 0 as that of
# the least fp32 number is, which transformers adds; but fp16 has this number, and the sum of
# two: a row with nothing to see has no NaN.
_HIDDEN = -3e4


class Dart(nn.Module):
    """The graphs of a DART detector; each is a method.

    Args:
        sam3: the network. size: its sizes.
        masks: whether outlines are deployed.
        skip: backbone blocks to leave out.
        student: what replaces the backbone and its neck: a module from the picture to the
            list of feature maps at 4, 2 and 1 times the grid (see :mod:`.dart_student`).

    Raises:
        UsageError: there is no such block to leave out.
    """

    def __init__(
        self,
        sam3: Sam3Model,
        size: DartSize,
        masks: bool = False,
        skip: Sequence[int] = (),
        student: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.size, self.with_masks = size, masks
        self.skipped = frozenset(skip)
        self.sam3 = sam3
        self.student = student
        # Tables from 0 and 1 of a mask to what attention adds and what pooling weights by:
        # looked up, the values have the type of the weights, whatever it is cast to later.
        tables = torch.tensor([[_HIDDEN, 0.0], [0.0, 1.0]])
        self.register_buffer("seen", tables, persistent=False)
        if student is not None:
            if skip:
                raise UsageError("a student has no blocks to leave out", "", "give one of the two")
            sam3.vision_encoder.backbone = None
            sam3.vision_encoder.neck.fpn_layers = None
        else:
            leave_out(sam3.vision_encoder.backbone.layers, self.skipped)

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """All of it: what :meth:`detection` gives for a picture and token ids of N prompts."""
        text = self.text(input_ids, attention_mask)
        features = self.vision(image)
        first = features[0] if isinstance(features, tuple) else features
        return self.detection(first, text, attention_mask)

    def vision(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Feature maps of a picture.

        Args:
            image: (1, 3, H, W) float32, RGB in [0, 1] minus 0.5, over 0.5.

        Returns:
            the map (1, width, H / 14, W / 14) that detection takes; with masks also those of
            twice and four times its size.
        """
        levels = _LEVELS_FOR_MASKS if self.with_masks else (_LEVEL,)
        maps = self.pyramid(image, levels)
        return tuple(maps) if self.with_masks else maps[0]

    def pyramid(self, image: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Levels of the feature pyramid: 0, 1, 2 are 4, 2 and 1 times the grid."""
        if self.student is not None:
            return self.student(image, levels)
        encoder = self.sam3.vision_encoder
        tokens = encoder.backbone(image).last_hidden_state
        grid = tokens.transpose(1, 2).unflatten(2, self.size.grid)
        return [encoder.neck.fpn_layers[level](grid) for level in levels]

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings of prompts.

        Args:
            input_ids: (N, tokens) int64. attention_mask: (N, tokens) int64, 1 for a token and
                0 for padding.

        Returns:
            (N, tokens, width) float32; what belongs to padding means nothing.
        """
        tokens = input_ids.shape[1]
        later = torch.full(
            (tokens, tokens), _HIDDEN, dtype=self.seen.dtype, device=self.seen.device
        )
        mask = self._hidden(attention_mask) + later.triu(1)
        return self.sam3.get_text_features(input_ids, mask).pooler_output

    def detection(
        self, features: Tensor, text_features: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of N classes in one picture.

        Args:
            features: (1, width, rows, columns). text_features: (N, tokens, width).
            attention_mask: (N, tokens) int64.

        Returns:
            boxes (N, queries, 4) as x1, y1, x2, y2 in shares of the picture, logits
            (N, queries), and the logit of presence (N, 1). A score is sigmoid(logit) times
            sigmoid(presence).
        """
        return self.detection_for_masks(features, text_features, attention_mask)[:3]

    def detection_for_masks(
        self, features: Tensor, text_features: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What :meth:`detection` gives, and the decoder's queries (N, queries, width) and the
        encoder's memory (N, rows x columns, width), of which outlines are drawn.
        """
        sam3, classes = self.sam3, text_features.shape[0]
        mask = self._hidden(attention_mask)
        encoded = sam3.detr_encoder(
            vision_features=[features.expand(classes, -1, -1, -1)],
            text_features=text_features,
            vision_pos_embeds=[self._positions(features).expand(classes, -1, -1, -1)],
            text_mask=mask,
        )
        decoded = sam3.detr_decoder(
            vision_features=encoded.last_hidden_state,
            text_features=encoded.text_features,
            vision_pos_encoding=encoded.pos_embeds_flattened,
            text_mask=mask,
            spatial_shapes=_Shapes(self.size.grid),
        )
        last = decoded.intermediate_hidden_states[-1:]
        boxes = _boxes(sam3, last[0], decoded.reference_boxes[-1])
        logits = sam3.dot_product_scoring(
            decoder_hidden_states=last,
            text_features=text_features,
            text_mask=functional.embedding(attention_mask, self.seen)[..., 1],
        )
        presence = decoded.presence_logits[-1]
        return boxes, logits[0, ..., 0], presence, last[0], encoded.last_hidden_state

    def masks(
        self,
        features_2x: Tensor,
        features_4x: Tensor,
        memory: Tensor,
        queries: Tensor,
        text_features: Tensor,
        attention_mask: Tensor,
    ) -> Tensor:
        """Outlines of chosen queries of one class.

        Args:
            features_2x, features_4x: of :meth:`vision`. memory: (1, rows x columns, width).
            queries: (1, K, width). text_features, attention_mask: of the class.

        Returns:
            (1, K, 4 x rows, 4 x columns) logits: above 0 is inside.
        """
        # The coarsest map is there for its size alone: the encoder's memory takes its place.
        coarse = memory.transpose(1, 2).unflatten(2, self.size.grid)
        drawn = self.sam3.mask_decoder(
            decoder_queries=queries,
            backbone_features=[features_4x, features_2x, coarse],
            encoder_hidden_states=memory,
            prompt_features=text_features,
            prompt_mask=self._hidden(attention_mask),
        )
        return drawn.pred_masks

    def checkpoint_key(self, key: str) -> str | None:
        """The key here of an official checkpoint's tensor; None for what is not needed."""
        if key.startswith(_TRACKER):
            return None
        key = key.removeprefix(_DETECTOR)
        if key.startswith(("sam3.", "student.")):
            return key
        block = key.removeprefix(_BLOCK).partition(".")[0]
        if key.startswith(_BLOCK) and block.isdigit() and int(block) in self.skipped:
            return None
        return f"sam3.{key}"

    def own_assets(self, checkpoint: Path | None) -> dict[str, bytes]:
        """What a bundle carries beside the graphs: the tokenizer that belongs to the weights."""
        vocabulary = self.sam3.config.text_config.vocab_size
        return {TOKENIZER: tokenizer_of(checkpoint, vocabulary)}

    def deploy_at(self, model: LoadedModel, size: tuple[int, int]) -> LoadedModel:
        """The loaded model with pictures of ``size`` (height, width).

        Rotary positions of the blocks that see the whole picture are computed anew for the
        size, as a network built for it has them; weights stay as they are.

        Raises:
            UsageError: a side is no multiple of the patch, or the picture is no square, which
                transformers' SAM 3 cannot take.
        """
        patch = self.size.patch
        if size[0] % patch or size[1] % patch or size[0] != size[1]:
            raise UsageError(
                f"{model.name} takes no pictures of {size[0]}x{size[1]}",
                f"sides are equal, and multiples of {patch}",
                f"--resolution {max(round(size[0] / patch), 1) * patch}",
            )
        self.size = replace(self.size, image=size)
        if self.student is not None:
            self.student.grid = self.size.grid
        encoder = self.sam3.vision_encoder
        if self.student is None:
            for block in encoder.backbone.layers:
                if not isinstance(block, LeftOut):
                    block.config.image_size = size[0]
                    block.position_ids = block.precompute_positions(block.config, block.window_size)
        task = task_of(self.size, self.with_masks)
        params = {**model.task.params, "resolution": list(size)}
        params["class_bytes"] = task.params["class_bytes"]
        return replace(
            model,
            graphs=graphs_of(self.size, self.with_masks),
            task=model.task.model_copy(update={"params": params}),
            macs=None,
        )

    def _hidden(self, attention_mask: Tensor) -> Tensor:
        """(N, tokens) of 1 and 0 as what is added to scores, (N, 1, 1, tokens)."""
        return functional.embedding(attention_mask, self.seen)[:, None, None, :, 0]

    def _positions(self, features: Tensor) -> Tensor:
        encode = self.sam3.vision_encoder.neck.position_encoding
        return encode(features.shape, features.device, features.dtype)


class _Shapes:
    """One level's rows and columns, where ``Sam3Model`` reads them off a tensor.

    Read off a tensor they would be values that a graph computes, and the sizes of what is made
    with them unknown.
    """

    shape = (1, 2)

    def __init__(self, grid: tuple[int, int]) -> None:
        self._grid = grid

    def __getitem__(self, place: tuple[int, int]) -> int:
        return self._grid[place[1]]


class LeftOut(nn.Module):
    """A block that is left out: what comes in goes out."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """``hidden_states``."""
        return hidden_states


def leave_out(blocks: nn.ModuleList, skip: Sequence[int] | frozenset[int]) -> None:
    """Replace blocks by nothing, so that the others keep their numbers and keys.

    Raises:
        UsageError: there is no such block, or none would be left.
    """
    if unknown := sorted(set(skip) - set(range(len(blocks)))):
        raise UsageError(f"there is no block {unknown[0]}", f"blocks are 0 to {len(blocks) - 1}")
    if len(set(skip)) == len(blocks):
        raise UsageError("no block would be left", f"all {len(blocks)} are left out")
    for index in skip:
        blocks[index] = LeftOut()


def _boxes(sam3: Sam3Model, queries: Tensor, references: Tensor) -> Tensor:
    """The decoder's last refinement, as ``Sam3Model.forward`` makes it."""
    from transformers.models.sam3.modeling_sam3 import box_cxcywh_to_xyxy, inverse_sigmoid

    offsets = sam3.detr_decoder.box_head(queries)
    return box_cxcywh_to_xyxy((inverse_sigmoid(references) + offsets).sigmoid())


def build(
    size: str, masks: bool = False, skip: Sequence[int] = (), student: str | None = None
) -> Dart:
    """A detector with random weights, in eval mode.

    Args:
        size: ``"sam3"`` or ``"sam3-tiny"``. masks: deploy outlines, too.
        skip: backbone blocks to leave out.
        student: a backbone in place of SAM 3's, by name; see :func:`.dart_student.make_student`.

    Raises:
        UsageError: there is no such block or backbone.
        MissingBackendError: transformers is not installed.
    """
    return assemble(SIZES[size], DEPTHS[size], masks, skip, student)


def assemble(
    size: DartSize,
    depths: Depths,
    masks: bool = False,
    skip: Sequence[int] = (),
    student: str | None = None,
) -> Dart:
    """As :func:`build`, of sizes of your own."""
    if student is None:
        return Dart(make(size, depths), size, masks, skip).eval()
    from .dart_student import make_student

    return Dart(make(size, depths), size, masks, skip, make_student(student, size)).eval()


def load_sized(
    name: str,
    size: DartSize,
    depths: Depths,
    masks: bool = False,
    skip: Sequence[int] = (),
    student: str | None = None,
) -> LoadedModel:
    """A detector of sizes of your own, ready for export, with seeded random weights.

    Args:
        name: of the bundle. The others are those of :func:`build`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = assemble(size, depths, masks, skip, student)
    return LoadedModel(
        name=name,
        source=name,
        module=module,
        graphs=graphs_of(size, masks),
        weights="random (seed 0)",
        task=task_of(size, masks),
        assets={LABELS: "coco80.txt", **module.own_assets(None)},
    )
