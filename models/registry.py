"""The registry: every model that edgekit knows by name, and what each one deploys.

Nothing here imports torch, so that the registry can be listed on a device, too. Adding a
model is an entry in :data:`_SPECS` and a family module next to this file.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from edgekit.errors import UsageError
from edgekit.manifest import TaskInfo

from .dart_graphs import ENTRIES as DART
from .dsvt.entries import ENTRIES as DSVT
from .heads import CLASSIFICATION, HEADS
from .moshi.entries import ENTRIES as MOSHI
from .physioser.entries import ENTRIES as PHYSIOSER
from .spec import LABELS, GraphSpec, InputSpec, ModelSpec

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PAPERS = {
    "cpubone": "CPUBone, CVPR Findings 2026, arXiv:2603.26425",
    "lowformer": "LowFormer, WACV 2025, arXiv:2409.03460",
}


def classification_task(
    resolution: int,
    resize: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    interpolation: str = "bicubic",
) -> TaskInfo:
    """A picture in, labels out: how a picture becomes the input, and logits become labels.

    Args:
        resolution: height and width of the input, in pixels, cut from the middle.
        resize: the shorter side is resized to this many pixels before that.
        mean, std: per RGB channel, of pixels scaled to [0, 1].
        interpolation: ``"bicubic"`` or ``"bilinear"``.
    """
    return TaskInfo(
        kind="classification",
        params={
            "input": "image",
            "output": "logits",
            "resolution": resolution,
            "resize": resize,
            "interpolation": interpolation,
            "crop": True,
            "scale": 1 / 255,
            "mean": list(mean),
            "std": list(std),
            "channels": "RGB",
            "labels": LABELS,
            "top_k": 5,
        },
    )


def _image_graph(resolution: int) -> GraphSpec:
    image = InputSpec("image", "float32", (1, 3, resolution, resolution))
    return GraphSpec(inputs=(image,), outputs=("logits",))


def _backbone(family: str, name: str, config: str, parameters: int, macs: int) -> ModelSpec:
    """A CPUBone or LowFormer: the same task, the same endings."""
    return ModelSpec(
        name=f"{family}-{name}",
        builder=f"edgekit.models.{family}:build",
        builder_args=(config,),
        graphs=(_image_graph(224),),
        # 236 = ceil(224 / 0.95): the authors' evaluation cuts off little of the picture.
        task=classification_task(224, 236, _IMAGENET_MEAN, _IMAGENET_STD),
        parameters=parameters,
        macs=macs,
        paper=_PAPERS[family],
        licence="Apache-2.0",
        assets={LABELS: "imagenet1k.txt"},
        heads=(CLASSIFICATION, *HEADS),
        classes=1000,
        rows=("head.op_list.3.linear.bias", 1),
    )


def _cpubone(name: str, config: str, parameters: int, macs: int) -> ModelSpec:
    return _backbone("cpubone", name, config, parameters, macs)


def _lowformer(config: str, parameters: int, macs: int) -> ModelSpec:
    entry = _backbone("lowformer", config.lower(), config, parameters, macs)
    # b2's empty stages leave it without the levels that the dense heads are made for.
    return replace(entry, heads=(CLASSIFICATION, "features")) if config == "b2" else entry


_EFFICIENTNET_LITE0 = ModelSpec(
    name="efficientnet-lite0",
    builder="edgekit.models.efficientnet_lite:build",
    graphs=(_image_graph(224),),
    # As TensorFlow trained it: pixels to (p - 127) / 128, the middle 7/8 of the picture.
    task=classification_task(224, 256, (127 / 255,) * 3, (128 / 255,) * 3),
    parameters=4_652_008,
    macs=385_187_552,
    paper="EfficientNet, ICML 2019, arXiv:1905.11946 (Lite variant of TensorFlow)",
    licence="Apache-2.0",
    default_weights="edgekit.models.efficientnet_lite:default_weights",
    assets={LABELS: "imagenet1k.txt"},
    classes=1000,
    rows=("_fc.bias", 1),
)

# CPUBone's second column is the official configuration. Names follow the published table,
# where B2 is the configuration b15; the last two configurations were never published.
# LowFormer's names are its configurations'; b15 is published as B1.5, b2 is not published.
_SPECS = {
    spec.name: spec
    for spec in (
        _cpubone("nano", "nano", 6_519_700, 187_292_512),
        _cpubone("t0", "t0", 7_542_100, 264_809_728),
        _cpubone("s0", "s0", 8_732_766, 354_836_154),
        _cpubone("b0", "b0", 10_357_368, 519_710_080),
        _cpubone("b1", "b1", 12_429_112, 746_028_928),
        _cpubone("b2", "b15", 23_856_668, 1_354_884_160),
        _cpubone("b3", "b3", 40_742_344, 4_054_590_464),
        _cpubone("b2-config", "b2", 30_422_752, 1_934_859_136),
        _cpubone("b25", "b25", 30_881_344, 2_411_731_840),
        _lowformer("b0", 14_100_472, 944_042_240),
        _lowformer("b1", 17_936_312, 1_410_980_096),
        _lowformer("b15", 33_982_028, 2_573_737_600),
        _lowformer("b2", 44_245_312, 55_231_762_432),
        _lowformer("b3", 57_086_920, 6_098_685_440),
        _lowformer("E1", 18_896_268, 1_348_157_440),
        _lowformer("E2", 22_750_664, 3_789_335_040),
        _lowformer("E3", 41_316_808, 4_865_560_064),
        _EFFICIENTNET_LITE0,
        *DART,
        *DSVT,
        *MOSHI,
        *PHYSIOSER,
    )
}


def names() -> list[str]:
    """The names of all models, families together.

    >>> "cpubone-b0" in names()
    True
    """
    return list(_SPECS)


def spec(name: str) -> ModelSpec:
    """What the registry knows of a model; torch is not needed.

    Capitals do not matter: ``lowformer-E1``, as the paper writes it, is found.

    Raises:
        UsageError: there is no such model; the nearest names are suggested.

    >>> spec("cpubone-b2").builder_args
    ('b15',)
    """
    if (found := _SPECS.get(name.lower())) is not None:
        return found
    near = get_close_matches(name.lower(), _SPECS, n=5, cutoff=0.5)
    raise UsageError(
        f"no model named {name!r}",
        f"the nearest names are {', '.join(near)}" if near else "no name is near it",
        "`edgekit models` lists them all",
    )
