"""Leave out the blocks of SAM 3's backbone that change least what detection is given.

Run: ``python -m edgekit.models.recipes.prune_dart --blocks 16 --pictures FOLDER -o OUT``.

Greedy, as the DART project prunes: of all blocks the one is left out without which the feature
map differs least from the whole network's, then the next, with the first left out, and so on.
Pictures are seen as a device sees them. What remains needs further training to be as good as the
DART project publishes; this recipe only chooses, and says what share of the feature map's
variance is lost.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgekit.errors import EdgekitError, UsageError

from ..checkpoint_info import CheckpointInfo, info_metadata
from ..dart import Dart, LeftOut
from ..dart_graphs import KIND, TOKENIZER
from ..loading import load
from .distil_dart import picture_tensor, read_pictures
from .training_state import write_tensors


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose, and write the checkpoint; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        prune(options)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def prune(options: argparse.Namespace) -> tuple[int, ...]:
    """The whole run; returns the blocks that are left out.

    Raises:
        UsageError: the model has no such backbone, or not so many blocks.
        InputError: a picture or the checkpoint cannot be read.
    """
    torch.set_num_threads(options.threads)
    model = load(options.model, options.weights)
    dart = model.module
    if not isinstance(dart, Dart) or dart.student is not None or dart.skipped:
        raise UsageError(f"{options.model} has no whole backbone", "", "give sam3 or sam3-tiny")
    training, held_back = read_pictures(options.pictures)
    images = [picture_tensor(picture, dart.size.image) for picture in training[: options.most]]
    chosen = []
    for block, lost in choose(dart, images, options.blocks):
        chosen.append(block)
        print(f"without {', '.join(map(str, sorted(chosen)))}: {lost:.4f} is lost", flush=True)
    others: list[Tensor] = [picture_tensor(picture, dart.size.image) for picture in held_back]
    with torch.no_grad():
        pruned = [dart.pyramid(image, (2,))[0] for image in others]
    whole = load(options.model, options.weights).module
    print(f"on {len(others)} pictures that were held back: {_lost(whole, others, pruned):.4f}")
    info = CheckpointInfo(
        model=options.model, head=KIND, skip=tuple(sorted(chosen)), origin=model.weights
    )
    write_tensors(options.out, dart.state_dict(), info_metadata(info))
    options.out.with_name("tokenizer.json").write_bytes(model.assets[TOKENIZER])
    print(f"next: edgekit export {options.model} --weights {options.out}")
    return tuple(sorted(chosen))


@torch.no_grad()
def choose(dart: Dart, images: Sequence[Tensor], count: int) -> Iterator[tuple[int, float]]:
    """One block after the other, and what share of the variance is lost without them all.

    Args:
        dart: changed: the blocks are left out of it. images: what it looks at.
        count: how many blocks to leave out.

    Raises:
        UsageError: no block would be left.
    """
    blocks = dart.sam3.vision_encoder.backbone.layers
    if not 0 < count < len(blocks):
        raise UsageError(f"{count} of {len(blocks)} blocks cannot be left out", "", "leave one")
    wanted = [dart.pyramid(image, (2,))[0] for image in images]
    for _ in range(count):
        losses = {}
        for place, block in enumerate(blocks):
            if not isinstance(block, LeftOut):
                blocks[place] = LeftOut()
                losses[place] = _share(wanted, [dart.pyramid(i, (2,))[0] for i in images])
                blocks[place] = block
        best = min(losses, key=lambda place: losses[place])
        blocks[best] = LeftOut()
        yield best, losses[best]


@torch.no_grad()
def _lost(whole: Dart, images: Sequence[Tensor], pruned: Sequence[Tensor]) -> float:
    return _share([whole.pyramid(image, (2,))[0] for image in images], pruned)


def _share(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    losses = [
        float((one - other).square().mean() / one.var())
        for one, other in zip(wanted, got, strict=True)
    ]
    return math.fsum(losses) / len(losses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgekit.models.recipes.prune_dart",
        description="Leave out the blocks of SAM 3's backbone that matter least.",
    )
    add = parser.add_argument
    add("--model", default="sam3-tiny", help="sam3, sam3-masks, sam3-tiny, …")
    add("--weights", help="its checkpoint; without one it is random")
    add("--blocks", type=int, required=True, help="how many to leave out")
    add("--pictures", type=Path, required=True, help="a folder; labels are not needed")
    add("--most", type=int, default=16, help="pictures to choose by, at most (16)")
    add("-o", "--out", type=Path, required=True, help="OUT, a .safetensors file")
    add("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
