"""Of two ways to quantise attention for OpenVINO, the one that stays nearer the network."""

import re

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("openvino")
pytest.importorskip("nncf")
pytest.importorskip("onnxscript")

from edgekit.export import export
from edgekit.quant.options import QuantOptions

from ..emotion_micro import micro_emotion, voice

WIDTH = 32
NOTE = re.compile(r"outliers of activations are (\w+) .*NMSE (\S+) on calibration samples, (\S+) e")


class OneHead(nn.Module):
    """Attention over tokens of which some channels are far larger than others."""

    def __init__(self, loudest: float) -> None:
        super().__init__()
        scale = torch.ones(WIDTH)
        scale[:3] = loudest
        self.register_buffer("scale", scale)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        with torch.no_grad():
            for layer in (self.query, self.key, self.value):
                layer.weight.div_(scale)  # as training leaves it: every channel counts

    def forward(self, x):
        x = x * self.scale
        weight = (self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5).softmax(-1)
        return weight @ self.value(x)


def settled(model, calibration, tmp_path, **inputs):
    """Which way was taken, its error by the note, that of the other one, and by the comparison."""
    result = export(
        model,
        ["openvino"],
        tmp_path / "b",
        precision="int8",
        quantisation=QuantOptions(calibration=calibration, compare=()),
        allow_drift=True,
        report=False,
        **inputs,
    )
    ((graph, *_),) = (one.graphs for one in result.targets)
    ((way, taken, other),) = (
        found.groups() for n in graph.verify["notes"] if (found := NOTE.match(n))
    )
    return way, float(taken), float(other), result.comparison["rows"][-1]["nmse"]


def test_outliers_are_smoothed_where_that_helps(tmp_path):
    torch.manual_seed(0)
    samples = [
        np.random.default_rng(n).normal(size=(1, 16, WIDTH)).astype(np.float32) for n in range(8)
    ]
    way, taken, other, nmse = settled(
        OneHead(loudest=20.0).eval(), samples, tmp_path, inputs=torch.zeros(1, 16, WIDTH)
    )
    assert way == "smoothed"
    assert taken < other / 4
    assert nmse < other


def test_they_are_left_where_smoothing_spoils_the_weights(tmp_path):
    sounds = [voice(0.5, 90 + 20 * n, seed=n)[None] for n in range(12)]
    way, taken, other, nmse = settled(micro_emotion(speech=False), sounds, tmp_path)
    assert way == "left"
    assert taken < other / 4
    assert nmse < 5e-3
