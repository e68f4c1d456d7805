"""Compressed constants and quantised activations, against the formulas written out."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from coremltools.converters.mil.mil.types.type_mapping import string_to_nptype  # noqa: E402

from .mil_programs import builder, close, interpret, normal  # noqa: E402

mb = builder()
DTYPES = ("float32", "float16")


def whole(low, high, *shape, dtype="int8"):
    return np.random.default_rng(0).integers(low, high, shape, endpoint=True).astype(dtype)


def added(constant):
    """A program that adds a computed constant to its input."""
    return lambda v: mb.add(x=v, y=constant())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_affine_dequantize(axis, kind, dtype):
    """iOS 17's form, in which the arguments are attributes."""
    data = whole(*((-128, 127) if kind == "int8" else (0, 255)), 4, 5, 6, dtype=kind)
    scale = np.abs(normal(5, dtype=dtype)) if axis else np.dtype(dtype).type(0.03)
    zero = whole(0, 9, 5, dtype=kind) if axis else np.dtype(kind).type(3)
    x = np.zeros((4, 5, 6), dtype)
    found = interpret(
        added(
            lambda: mb.constexpr_affine_dequantize(
                quantized_data=data, scale=scale, zero_point=zero, axis=axis or 0
            )
        ),
        x,
        system="iOS17",
    )
    tall = [1, 5, 1] if axis else []
    wanted = (data.astype(np.float64) - zero.reshape(tall)) * scale.astype(np.float64).reshape(tall)
    close(found, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("offset", [False, True])
def test_blockwise_shift_scale(offset, kind, dtype):
    low, high = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}[kind]
    stored = string_to_nptype(kind)
    data = whole(low, high, 6, 9, dtype=stored)
    scale = (np.abs(normal(2, 3)) / 16 + 0.01).astype(dtype)
    shift = {"offset": whole(0, 5, 2, 3, dtype=stored)} if offset else {}
    found = interpret(
        added(lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **shift)),
        np.zeros((6, 9), dtype),
    )
    wide = np.kron(scale.astype(np.float64), np.ones((3, 3)))
    moved = np.kron(shift["offset"].astype(np.float64), np.ones((3, 3))) if offset else 0
    close(found, (data.astype(np.float64) - moved) * wide, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettes(bits, dtype):
    indices = whole(0, 2**bits - 1, 6, 5, dtype=string_to_nptype(f"uint{bits}"))
    lut = normal(2, 1, 2**bits, 1, dtype=dtype)
    found = interpret(
        added(lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut)), np.zeros((6, 5), dtype)
    )
    wanted = np.concatenate([lut[0, 0, indices[:3], 0], lut[1, 0, indices[3:], 0]])
    close(found, wanted, dtype)


@pytest.mark.parametrize("axis", [0, 1])
def test_palettes_of_vectors(axis):
    indices = whole(0, 1, 3, 4, dtype=string_to_nptype("uint1"))
    lut = normal(1, 1, 2, 3)
    shape = [3, 4]
    shape[axis] *= 3
    found = interpret(
        added(lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=axis)),
        np.zeros(shape, np.float32),
    )
    wanted = np.zeros(shape, np.float32)
    for row, column in np.ndindex(3, 4):
        at = (
            (slice(3 * row, 3 * row + 3), column)
            if axis == 0
            else (row, slice(3 * column, 3 * column + 3))
        )
        wanted[tuple(at)] = lut[0, 0, indices[row, column]]
    close(found, wanted)


def packed(values, bits):
    """The documented packing, one bit at a time: the least significant bits first."""
    content = bytearray(-(-len(values) * bits // 8))
    for number, value in enumerate(values):
        for bit in range(bits):
            place = number * bits + bit
            content[place // 8] |= ((int(value) >> bit) & 1) << (place % 8)
    return np.frombuffer(bytes(content), np.uint8).copy()


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_palettes_of_ios_17(bits):
    indices = whole(0, 2**bits - 1, 3, 5, dtype="uint8")
    lut, shape = normal(2**bits), np.array([3, 5], np.uint32)
    found = interpret(
        added(
            lambda: mb.constexpr_lut_to_dense(
                indices=packed(indices.reshape(-1), bits),
                lut=lut,
                shape=shape,
            )
        ),
        np.zeros((3, 5), np.float32),
        system="iOS17",
    )
    close(found, lut[indices])


def test_sparse_constants():
    dense = normal(4, 6) * (normal(4, 6, seed=1) > 0.3)
    mask = (dense != 0).astype(string_to_nptype("uint1"))
    zeros = np.zeros((4, 6), np.float32)
    values = dense[dense != 0]
    found = interpret(
        added(lambda: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)), zeros
    )
    close(found, dense)
    found = interpret(
        added(
            lambda: mb.constexpr_sparse_to_dense(
                nonzero_data=values,
                mask=packed((dense != 0).reshape(-1), 1),
                shape=np.array([4, 6], np.uint32),
            )
        ),
        zeros,
        system="iOS17",
    )
    close(found, dense)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantize_and_back(axis, kind, dtype):
    x = (3 * normal(2, 5, 4)).astype(dtype)
    scale = np.array([0.5, 0.25, 0.125, 1, 0.0625], dtype) if axis else np.dtype(dtype).type(0.125)
    zero = whole(0, 9, 5, dtype=kind) if axis else np.dtype(kind).type(3)
    given = {"scale": scale, "zero_point": zero} | ({"axis": 1} if axis else {})

    def build(v):
        inside = mb.quantize(input=v, output_dtype=kind, **given)
        return inside, mb.dequantize(input=inside, **given)

    found = interpret(build, x)
    tall = [1, 5, 1] if axis else []
    s, z = scale.astype(np.float64).reshape(tall), zero.reshape(tall).astype(np.float64)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    wanted = np.clip(np.round(x.astype(np.float64) / s) + z, low, high)
    assert found[0].dtype == kind
    close(found[0], wanted.astype(kind))
    close(found[1], (wanted - z) * s, dtype)
