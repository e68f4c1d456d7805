"""A packed matrix stands for the one it was made of, as nearly as its precision allows."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.devices.cluster.packing import PRECISIONS, pack, packed_bytes, unpack

# The rounding of one weight, as a share of the largest of its group.
WITHIN = {"fp32": 0.0, "bf16": 2**-8, "int8": 0.6 / 127, "int4": 1.3 / 15}


@pytest.mark.parametrize("kind", PRECISIONS)
@pytest.mark.parametrize("shape", [(16, 64), (1, 1), (50, 96), (33, 200)])
def test_it_comes_back(kind, shape):
    matrix = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    packed = pack(matrix, kind)
    assert packed.nbytes == packed_bytes(kind, *shape)
    found = unpack(packed, kind, *shape)
    assert found.shape == shape
    assert np.abs(found - matrix).max() <= WITHIN[kind] * np.abs(matrix).max()


def test_groups_have_their_own_scales():
    matrix = np.ones((16, 128), np.float32)
    matrix[:, :32] = 1e-2
    matrix[3] *= 100
    for kind in ("int8", "int4"):
        np.testing.assert_allclose(unpack(pack(matrix, kind), kind, 16, 128), matrix, rtol=1e-2)


def test_numbers_of_q4_1_stay_as_they_are():
    random = np.random.default_rng(1)
    scale = random.uniform(0.01, 0.1, (32, 4, 1)).astype(np.float16).astype(np.float32)
    least = random.uniform(-1, 0, (32, 4, 1)).astype(np.float16).astype(np.float32)
    steps = random.integers(0, 16, (32, 4, 32))
    steps[..., 0], steps[..., 1] = 0, 15
    matrix = (steps * scale + least).reshape(32, 128).astype(np.float32)
    found = unpack(pack(matrix, "int4"), "int4", 32, 128)
    np.testing.assert_allclose(found, matrix, atol=2e-6)


@pytest.mark.parametrize("kind", PRECISIONS)
def test_zeros_stay_zeros(kind):
    assert not unpack(pack(np.zeros((20, 70), np.float32), kind), kind, 20, 70).any()
