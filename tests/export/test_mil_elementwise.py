"""Operators element by element, against NumPy and SciPy."""

import math

import numpy as np
import pytest

pytest.importorskip("coremltools")

from scipy import special

from .mil_programs import builder, close, interpret, normal

mb = builder()
DTYPES = ("float32", "float16")

UNARY = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": special.erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": lambda x: x,
    "round": np.round,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
INSIDE = {"acos", "asin", "atanh", "sqrt"}  # defined between 0 and 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, dtype):
    x = normal(2, 3, 5, dtype=dtype)
    if name in INSIDE:
        x = (np.abs(x) % 0.9).astype(dtype)
    found = interpret(lambda v: getattr(mb, name)(x=v), x)
    close(found, UNARY[name](x.astype(np.float64)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("inverse", lambda x: 1 / (x + 0.5)),
        ("log", lambda x: np.log(x + 0.5)),
        ("rsqrt", lambda x: 1 / np.sqrt(x + 0.5)),
    ],
)
def test_unary_with_epsilon(name, wanted, dtype):
    x = np.abs(normal(3, 4, dtype=dtype))
    epsilon = np.dtype(dtype).type(0.5)
    found = interpret(lambda v: getattr(mb, name)(x=v, epsilon=epsilon), x)
    close(found, wanted(x.astype(np.float64)), dtype)


def test_epsilon_has_apples_default():
    x = np.full((1,), 1e-3, np.float32)
    assert math.isclose(interpret(lambda v: mb.inverse(x=v), x)[0], 1 / 1.1e-3, rel_tol=1e-6)


def test_halves_are_rounded_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert interpret(lambda v: mb.round(x=v), x).tolist() == [0, 2, 2, 0, -2]


def test_clip_and_threshold():
    x = normal(7)
    found = interpret(
        lambda v: (mb.clip(x=v, alpha=-0.5, beta=0.3), mb.threshold(x=v, alpha=0.1)), x
    )
    close(found[0], np.clip(x, -0.5, 0.3))
    close(found[1], np.maximum(x, np.float32(0.1)))


def test_casts_cut_fractions_off():
    x = np.array([1.9, -1.9, 0.0, 300.7], np.float32)
    kinds = ("int32", "int16", "bool", "fp16")
    found = interpret(lambda v: tuple(mb.cast(x=v, dtype=kind) for kind in kinds), x)
    assert found[0].tolist() == found[1].tolist() == [1, -1, 0, 300]
    assert found[2].tolist() == [True, True, False, True]
    assert np.array_equal(found[3], x.astype(np.float16).astype(np.float32))


def test_an_integer_is_cast_to_a_float_and_a_truth_value_to_an_integer():
    x = np.array([3, -4], np.int32)
    found = interpret(
        lambda v: (
            mb.cast(x=v, dtype="fp32"),
            mb.cast(x=mb.cast(x=v, dtype="bool"), dtype="int32"),
        ),
        x,
    )
    assert (found[0].dtype, found[0].tolist()) == (np.float32, [3, -4])
    assert found[1].tolist() == [1, 1]


ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.true_divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_div": np.floor_divide,
    "mod": np.mod,
}
COMPARISON = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_broadcasts(name, dtype):
    # Quotients of halves are exact in both types, so rounding down is unambiguous.
    x = (np.arange(-9, 9, dtype=dtype) / 2).reshape(2, 3, 3)
    y = np.array([[1.5], [-2], [0.5]], dtype)
    found = interpret(lambda a, b: getattr(mb, name)(x=a, y=b), x, y)
    close(found, ARITHMETIC[name](x.astype(np.float64), y.astype(np.float64)), dtype)


@pytest.mark.parametrize("name", [n for n in ARITHMETIC if n != "real_div"])
def test_arithmetic_of_integers(name):
    x, y = np.arange(-6, 6, dtype=np.int32), np.array([[4], [-5]], np.int32)
    found = interpret(lambda a, b: getattr(mb, name)(x=a, y=b), x, y)
    close(found, ARITHMETIC[name](x, y))
    assert found.dtype == np.int32


@pytest.mark.parametrize("dtype", DTYPES)
def test_pow(dtype):
    x, y = np.abs(normal(3, 4, dtype=dtype)), normal(4, dtype=dtype, seed=1)
    found = interpret(lambda a, b: mb.pow(x=a, y=b), x, y)
    close(found, np.power(x.astype(np.float64), y.astype(np.float64)), dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, "int32"])
@pytest.mark.parametrize("name", COMPARISON)
def test_comparison(name, dtype):
    x, y = np.array([[1, 2, 3]], dtype), np.array([[2], [3]], dtype)
    found = interpret(lambda a, b: getattr(mb, name)(x=a, y=b), x, y)
    assert found.dtype == bool
    close(found, COMPARISON[name](x, y))


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic(name):
    x, y = np.array([[True, False]]), np.array([[True], [False]])
    found = interpret(lambda a, b: getattr(mb, f"logical_{name}")(x=a, y=b), x, y)
    close(found, getattr(np, f"logical_{name}")(x, y))
    close(interpret(lambda a: mb.logical_not(x=a), x), ~x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_select(dtype):
    a, b = normal(2, 3, dtype=dtype), normal(3, dtype=dtype, seed=1)
    cond = np.array([[True], [False]])
    found = interpret(lambda c, x, y: mb.select(cond=c, a=x, b=y), cond, a, b)
    close(found, np.where(cond, a, b), dtype)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "clamped_relu": (
        {"alpha": 0.25, "beta": 0.5},
        lambda x: np.minimum(np.where(x >= 0, x, 0.25 * x), 0.5),
    ),
    "elu": ({"alpha": 0.7}, lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1))),
    "leaky_relu": ({"alpha": 0.1}, lambda x: np.where(x >= 0, x, 0.1 * x)),
    "linear_activation": ({"alpha": 2.0, "beta": -0.3}, lambda x: 2 * x - 0.3),
    "relu": ({}, lambda x: np.maximum(x, 0)),
    "relu6": ({}, lambda x: np.clip(x, 0, 6)),
    "scaled_tanh": ({"alpha": 1.7, "beta": 0.6}, lambda x: 1.7 * np.tanh(0.6 * x)),
    "sigmoid": ({}, _sigmoid),
    "sigmoid_hard": ({"alpha": 0.3, "beta": 0.4}, lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "silu": ({}, lambda x: x * _sigmoid(x)),
    "softplus": ({}, lambda x: np.log1p(np.exp(x))),
    "softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "thresholded_relu": ({"alpha": 0.4}, lambda x: np.where(x >= 0.4, x, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, dtype):
    parameters, wanted = ACTIVATIONS[name]
    given = {key: np.dtype(dtype).type(value) for key, value in parameters.items()}
    x = (4 * normal(2, 3, 5, 7)).astype(dtype)
    found = interpret(lambda v: getattr(mb, name)(x=v, **given), x)
    close(found, wanted(x.astype(np.float64)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 4, 5)])
def test_activations_by_channel(shape, dtype):
    x = normal(*shape, dtype=dtype)
    alpha, beta = normal(3, dtype=dtype, seed=1), normal(3, dtype=dtype, seed=2)
    if len(shape) == 3:
        alpha[:] = alpha[0]  # the builder's limit
    tall = [-1] + [1] * (len(shape) - 2)
    a, b = (v.astype(np.float64).reshape(tall) for v in (alpha, beta))
    wide = x.astype(np.float64)
    found = interpret(lambda v: mb.prelu(x=v, alpha=alpha), x)
    close(found, np.where(wide > 0, wide, a * wide), dtype)
    if len(shape) == 4:
        found = interpret(lambda v: mb.softplus_parametric(x=v, alpha=alpha, beta=beta), x)
        close(found, a * np.log1p(np.exp(b * wide)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("EXACT", lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2)))),
        (
            "TANH_APPROXIMATION",
            lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        ),
        ("SIGMOID_APPROXIMATION", lambda x: x * _sigmoid(1.702 * x)),
    ],
)
def test_gelu(mode, wanted, dtype):
    x = (3 * normal(40)).astype(dtype)
    found = interpret(lambda v: mb.gelu(x=v, mode=mode), x)
    close(found, wanted(x.astype(np.float64)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_softmax(axis, dtype):
    x = (5 * normal(2, 7, 3)).astype(dtype)
    found = interpret(lambda v: mb.softmax(x=v, axis=axis), x)
    close(found, special.softmax(x.astype(np.float64), axis=axis), dtype)


def test_softmax_and_softplus_do_not_overflow():
    x = np.array([1e4, -1e4, 0], np.float32)
    assert np.isfinite(interpret(lambda v: mb.softmax(x=v), x)).all()
    close(interpret(lambda v: mb.softplus(x=v), x), np.array([1e4, 0, np.log(2)]))


def test_fp16_overflows_where_fp16_does():
    x = np.array([300, 200], np.float16)
    found = interpret(lambda v: mb.mul(x=v, y=v), x)
    assert found.tolist() == [np.inf, np.float32(np.float16(40000))]
