"""transformers' configurations of the DART detectors, and their seeded weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingBackendError

from .dart_graphs import SIZES, DartSize
from .sources.vision_operators import declare_vision_operators

if TYPE_CHECKING:
    from transformers import Sam3Config, Sam3Model

# What transformers imports warns of its own build and of PyTorch's future; none of it is the
# user's doing.
_TALKATIVE = ("torchao", "torch.utils._pytree")

# A network that transformers has just initialised tells nothing apart: all its boxes lie in
# the middle, and neither the picture nor the class moves them. Matrices that keep the size of
# what goes through them make both matter, as trained ones do.
_PRESENCE = 2.0  # logit to which that of every class is added: a class is there until shown not
_SPREAD = 1.5  # of the queries' first boxes, as logits


@dataclass(frozen=True)
class Depths:
    """What a size leaves open; defaults are those of ``sam3``.

    Attributes:
        vit: width, MLP width, blocks, heads of the backbone; window: its side in tokens.
        look_around: the blocks that attend to the whole picture.
        pretrain: picture size that the position table stands for, in pixels.
        text: width, MLP width, layers, heads of the text tower.
        layers: of the detection encoder and decoder, each. feedforward: their MLP width.
    """

    vit: tuple[int, int, int, int] = (1024, 4736, 32, 16)
    window: int = 24
    look_around: tuple[int, ...] = (7, 15, 23, 31)
    pretrain: int = 336
    text: tuple[int, int, int, int] = (1024, 4096, 24, 16)
    layers: int = 6
    feedforward: int = 2048


DEPTHS = {
    "sam3": Depths(),
    "sam3-tiny": Depths(
        vit=(64, 128, 4, 4),
        window=8,
        look_around=(1, 3),
        pretrain=112,
        text=(64, 128, 2, 4),
        layers=2,
        feedforward=128,
    ),
}


def make(size: DartSize, depths: Depths) -> Sam3Model:
    """A ``Sam3Model`` in eval mode with random weights, drawn from torch's own generator.

    Attention is in its explicit form (``eager``): fp16 computes the same as fp32 with it, and
    it has fewer operators than the fused one brings after decomposition.

    Raises:
        MissingBackendError: transformers, or torchvision which its SAM 3 needs, is not here.
    """
    transformers = need_transformers()
    model = transformers.Sam3Model._from_config(
        configure(size, depths), attn_implementation="eager"
    )
    _tell_apart(model)
    return model.eval()


def named(name: str) -> tuple[DartSize, Depths]:
    """The sizes of ``sam3`` or ``sam3-tiny``."""
    return SIZES[name], DEPTHS[name]


def configure(size: DartSize, depths: Depths) -> Sam3Config:
    """transformers' configuration of a detector; for ``sam3`` it is the library's own default."""
    transformers = need_transformers()
    width, inner, blocks, heads = depths.vit
    backbone = transformers.Sam3ViTConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=_side(size),
        patch_size=size.patch,
        window_size=depths.window,
        global_attn_indexes=list(depths.look_around),
        pretrain_image_size=depths.pretrain,
    )
    rows, columns = size.grid
    vision = transformers.Sam3VisionConfig(
        backbone_config=backbone,
        fpn_hidden_size=size.width,
        backbone_feature_sizes=[[rows * scale, columns * scale] for scale in (4, 2, 1)],
    )
    part = {"hidden_size": size.width, "num_attention_heads": size.heads}
    detr = {**part, "num_layers": depths.layers, "intermediate_size": depths.feedforward}
    return transformers.Sam3Config(
        vision_config=vision,
        text_config=_text(transformers, size, depths),
        geometry_encoder_config={**detr, "num_layers": max(depths.layers // 2, 1)},
        detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": size.queries},
        mask_decoder_config=part,
    )


def _text(transformers: Any, size: DartSize, depths: Depths) -> Any:
    width, inner, layers, heads = depths.text
    return transformers.CLIPTextConfig(
        vocab_size=size.vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        projection_dim=width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=size.tokens,
        hidden_act="gelu",
        bos_token_id=size.vocabulary - 2,
        eos_token_id=size.vocabulary - 1,
    )


def _side(size: DartSize) -> int | list[int]:
    height, width = size.image
    return height if height == width else [height, width]


def _tell_apart(model: Sam3Model) -> None:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    with torch.no_grad():
        for part in model.modules():
            if not isinstance(part, kinds):
                continue
            fan = part.in_features if isinstance(part, torch.nn.Linear) else _fan_in(part)
            part.weight.normal_(std=fan**-0.5)
        for embedding in (model.detr_decoder.query_embed, model.detr_decoder.presence_token):
            embedding.weight.normal_()
        model.text_encoder.text_model.embeddings.token_embedding.weight.normal_(std=_SPREAD)
        model.detr_decoder.reference_points.weight.normal_(std=_SPREAD)
        model.detr_decoder.presence_head.layer3.bias.fill_(_PRESENCE)


def _fan_in(convolution: Any) -> int:
    rows, columns = convolution.kernel_size
    # A transposed convolution of stride 2 with a 2x2 kernel: each output has one source.
    places = 1 if convolution.transposed else rows * columns
    return convolution.in_channels * places


def need_transformers() -> Any:
    """transformers, if it has SAM 3.

    Raises:
        MissingBackendError: it is not installed, or too old.
    """
    declare_vision_operators()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import torchvision  # noqa: F401 -- transformers' SAM 3 refuses to start without it
        import transformers

        transformers.Sam3Model  # noqa: B018 -- transformers imports a class when it is named
    except (ImportError, AttributeError) as error:
        raise MissingBackendError(
            "cannot build SAM 3",
            f"it is transformers' own model, and needs torchvision: {error}",
            'pip install "edgekit-toolkit[hf]" torchvision',
        ) from error
    return transformers
