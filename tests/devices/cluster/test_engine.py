"""An engine's logits are transformers', on one rank and on several, whole and streamed."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.devices.cluster.engine import Engine
from edgekit.devices.cluster.split import split

from .helpers import VOCABULARY, on_all, reference, save_model

FAMILIES = {
    "llama": {},
    "llama-3": {
        "rope_parameters": {
            "rope_theta": 10000.0,
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "llama-tied": {"tie_word_embeddings": True},
    "llama-linear": {
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "linear", "factor": 2.0}
    },
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}
IDS = [int(i) for i in np.random.default_rng(3).integers(0, VOCABULARY, 40)]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save_model(folder, request.param.split("-")[0], **FAMILIES[request.param])


def walk(engine: Engine) -> np.ndarray:
    """Logits after a prompt, and after each of the tokens that follow."""
    found = [engine.prefill(IDS[:21]).copy()]
    found += [engine.decode(token).copy() for token in IDS[21:]]
    return np.stack(found)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_logits_are_transformers(made, tmp_path, nodes):
    folder, model = made
    expected = reference(model, IDS)[20:]
    folders = list(split(folder, tmp_path / "out", [1] * nodes))
    found = on_all(folders, walk, context=64)
    assert np.abs(found - expected).max() < 1e-3 * max(1.0, np.abs(expected).max() / 10)
