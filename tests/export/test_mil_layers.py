"""Convolutions, poolings, products and norms, against PyTorch's own functions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

import torch.nn.functional as F  # noqa: E402

from .mil_programs import builder, close, interpret, normal  # noqa: E402

mb = builder()
DTYPES = ("float32", "float16")
SIDES = (7, 6, 5)


def wide(array):
    """For a reference without rounding of its own."""
    return torch.from_numpy(array.astype(np.float64))


CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("groups", "stride", "dilation", "kernel"),
    [(1, 1, 1, 3), (2, 2, 1, 3), (4, 1, 2, 3), (1, 3, 1, 2), (1, 1, 1, 1), (4, 2, 2, 2)],
)
def test_conv_with_its_own_padding(axes, groups, stride, dilation, kernel, dtype):
    x = normal(2, 4, *SIDES[:axes], dtype=dtype)
    weight = normal(8, 4 // groups, *[kernel] * axes, dtype=dtype, seed=1)
    bias = normal(8, dtype=dtype, seed=2)
    pad = [1, 2, 0, 1, 2, 0][: 2 * axes]
    found = interpret(
        lambda v: mb.conv(
            x=v,
            weight=weight,
            bias=bias,
            strides=[stride] * axes,
            dilations=[dilation] * axes,
            groups=groups,
            pad_type="custom",
            pad=pad,
        ),
        x,
    )
    around = [amount for i in reversed(range(axes)) for amount in pad[2 * i : 2 * i + 2]]
    wanted = CONV[axes](
        F.pad(wide(x), around), wide(weight), wide(bias), stride, 0, dilation, groups
    )
    close(found, wanted, dtype)


@pytest.mark.parametrize("dilation", [1, 2])
def test_conv_same_at_stride_one_is_pytorchs_same(dilation):
    x, weight = normal(1, 3, 7, 5), normal(2, 3, 3, 5, seed=1)
    found = interpret(
        lambda v: mb.conv(x=v, weight=weight, pad_type="same", dilations=[dilation] * 2), x
    )
    close(found, F.conv2d(wide(x), wide(weight), padding="same", dilation=dilation))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(7, 3, 2, 1, 1), (8, 3, 2, 0, 1), (7, 2, 1, 0, 1), (9, 4, 3, 0, 1), (5, 1, 2, 0, 0)],
)
def test_conv_same_pads_as_little_as_it_needs(size, kernel, stride, before, after):
    """As TensorFlow's SAME, from which the word comes."""
    x, weight = normal(1, 2, size), normal(3, 2, kernel, seed=1)
    for kind, pads in (("same", (before, after)), ("same_lower", (after, before))):
        found = interpret(
            lambda v, k=kind: mb.conv(x=v, weight=weight, pad_type=k, strides=[stride]), x
        )
        close(found, F.conv1d(F.pad(wide(x), pads), wide(weight), stride=stride))
        assert found.shape[-1] == -(-size // stride)


def test_conv_valid_without_bias_and_with_a_computed_weight():
    x, weight = normal(1, 3, 6, 5), normal(4, 3, 3, 3, seed=1)
    found = interpret(lambda v, w: mb.conv(x=v, weight=w, pad_type="valid"), x, weight)
    close(found, F.conv2d(wide(x), wide(weight)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("groups", "stride", "dilation", "padding"), [(1, 2, 1, 0), (2, 3, 1, 1), (1, 1, 2, 2)]
)
def test_conv_transpose(axes, groups, stride, dilation, padding, dtype):
    x = normal(2, 4, *SIDES[:axes], dtype=dtype)
    weight = normal(4, 6 // groups, *[3] * axes, dtype=dtype, seed=1)
    bias = normal(6, dtype=dtype, seed=2)
    found = interpret(
        lambda v: mb.conv_transpose(
            x=v,
            weight=weight,
            bias=bias,
            strides=[stride] * axes,
            dilations=[dilation] * axes,
            groups=groups,
            pad_type="custom",
            pad=[padding] * 2 * axes,
        ),
        x,
    )
    wanted = TRANSPOSED[axes](
        wide(x),
        wide(weight),
        wide(bias),
        stride,
        padding,
        groups=groups,
        dilation=dilation,
    )
    close(found, wanted, dtype)


def test_conv_transpose_to_a_given_size():
    x, weight, bias = normal(1, 3, 5, 4), normal(3, 2, 3, 3, seed=1), normal(2, seed=2)
    wanted = F.conv_transpose2d(
        wide(x), wide(weight), wide(bias), stride=2, padding=1, output_padding=1
    )
    found = interpret(
        lambda v: mb.conv_transpose(
            x=v,
            weight=weight,
            bias=bias,
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            output_shape=list(wanted.shape),
        ),
        x,
    )
    close(found, wanted)


def test_conv_transpose_same_keeps_the_size_times_the_stride():
    x, weight = normal(1, 2, 5), normal(2, 3, 4, seed=1)
    found = interpret(
        lambda v: mb.conv_transpose(x=v, weight=weight, strides=[2], pad_type="same"), x
    )
    close(found, F.conv_transpose1d(wide(x), wide(weight), stride=2, padding=1))


MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    ("axes", "kernel", "stride", "padding"),
    [(1, 3, 2, 1), (2, 3, 2, 1), (2, 2, 2, 0), (2, 3, 3, 1), (2, 2, 3, 1), (3, 3, 2, 1)],
)
def test_pooling(axes, kernel, stride, padding, ceil, dtype):
    x = (normal(2, 3, *SIDES[:axes]) - 2).astype(dtype)  # negative: padding must not win
    if axes == 3 and ceil:
        pytest.skip("the builder rounds up over one and two axes only")
    given = {
        "kernel_sizes": [kernel] * axes,
        "strides": [stride] * axes,
        "pad_type": "custom" if padding else "valid",
        "ceil_mode": ceil,
    }
    if padding:
        given["pad"] = [padding] * 2 * axes
    found = interpret(lambda v: mb.max_pool(x=v, **given), x)
    close(found, MAX[axes](wide(x), kernel, stride, padding, ceil_mode=ceil), dtype)
    for excluded in (False, True):
        found = interpret(
            lambda v, e=excluded: mb.avg_pool(x=v, exclude_padding_from_average=e, **given), x
        )
        wanted = AVERAGE[axes](
            wide(x), kernel, stride, padding, ceil_mode=ceil, count_include_pad=not excluded
        )
        close(found, wanted, dtype)


def test_pooling_with_uneven_padding():
    x = normal(1, 2, 5, 6)
    given = {"kernel_sizes": [2, 3], "strides": [1, 2], "pad_type": "custom", "pad": [1, 0, 0, 2]}
    lowest = F.pad(wide(x), (0, 2, 1, 0), value=-torch.inf)
    found = interpret(lambda v: mb.max_pool(x=v, **given), x)
    close(found, F.max_pool2d(lowest, (2, 3), (1, 2)))
    found = interpret(lambda v: mb.avg_pool(x=v, **given), x)
    close(found, F.avg_pool2d(F.pad(wide(x), (0, 2, 1, 0)), (2, 3), (1, 2)))


def test_pooling_same_divides_by_the_elements_that_there_are():
    x = normal(1, 1, 5)
    found = interpret(
        lambda v: mb.avg_pool(
            x=v,
            kernel_sizes=[2],
            strides=[2],
            pad_type="same",
            exclude_padding_from_average=True,
        ),
        x,
    )
    a, b, c, d, e = x[0, 0]
    close(found, np.array([[[(a + b) / 2, (c + d) / 2, e]]]))


def test_l2_pool():
    x = normal(1, 2, 6, 5)
    found = interpret(
        lambda v: mb.l2_pool(x=v, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"), x
    )
    close(found, F.lp_pool2d(wide(x), 2, 2, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_linear(shape, dtype):
    x, weight = normal(*shape, dtype=dtype), normal(4, 5, dtype=dtype, seed=1)
    bias = normal(4, dtype=dtype, seed=2)
    found = interpret(lambda v: mb.linear(x=v, weight=weight, bias=bias), x)
    close(found, F.linear(wide(x), wide(weight), wide(bias)), dtype)
    close(
        interpret(lambda v: mb.linear(x=v, weight=weight), x),
        F.linear(wide(x), wide(weight)),
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b", "swap_a", "swap_b"),
    [
        ((3, 4), (4, 5), False, False),
        ((2, 1, 4, 3), (3, 5, 4), True, True),
        ((1, 3, 4), (2, 5, 4), False, True),
    ],
)
def test_matmul(a, b, swap_a, swap_b, dtype):
    x, y = normal(*a, dtype=dtype), normal(*b, dtype=dtype, seed=1)
    found = interpret(
        lambda v, w: mb.matmul(x=v, y=w, transpose_x=swap_a, transpose_y=swap_b), x, y
    )
    left = np.swapaxes(x, -1, -2) if swap_a else x
    right = np.swapaxes(y, -1, -2) if swap_b else y
    close(found, np.matmul(left.astype(np.float64), right.astype(np.float64)), dtype)


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("nchw,nwhu->nchu", (2, 3, 1, 5), (2, 5, 4, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
    ],
)
def test_einsum(equation, a, b):
    x, y = normal(*a), normal(*b, seed=1)
    found = interpret(lambda v, w: mb.einsum(values=(v, w), equation=equation), x, y)
    full = np.broadcast_to(x, (*a[:-2], b[-2], a[-1]))
    close(found, np.einsum(equation, full.astype(np.float64), y.astype(np.float64)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [None, "added", "truth"])
def test_attention(mask, dtype):
    q, k, v = (
        normal(2, 3, 5, 8, dtype=dtype),
        normal(2, 3, 7, 8, dtype=dtype, seed=1),
        normal(2, 3, 7, 4, dtype=dtype, seed=2),
    )
    masks = {"added": normal(5, 7, dtype=dtype, seed=3), "truth": normal(5, 7, seed=4) > -0.5}
    arrays = (q, k, v) if mask is None else (q, k, v, masks[mask])

    def build(q, k, v, m=None):
        given = {} if m is None else {"attn_mask": m}
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, **given)

    given = None if mask is None else torch.from_numpy(masks[mask])
    if mask == "added":
        given = given.double()
    wanted = F.scaled_dot_product_attention(wide(q), wide(k), wide(v), attn_mask=given)
    close(interpret(build, *arrays), wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 3, 2, 4, 5)])
def test_batch_norm(shape, dtype):
    x = normal(*shape, dtype=dtype)
    mean, gamma, beta = (normal(3, dtype=dtype, seed=s) for s in (1, 2, 3))
    variance = np.abs(normal(3, dtype=dtype, seed=4)) + np.dtype(dtype).type(0.5)
    epsilon = np.dtype(dtype).type(1e-3)
    found = interpret(
        lambda v: mb.batch_norm(
            x=v, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon
        ),
        x,
    )
    parts = map(wide, (x, mean, variance, gamma, beta))
    close(found, F.batch_norm(*parts, eps=float(epsilon)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)])
def test_instance_norm(shape, dtype):
    x, gamma, beta = (
        normal(*shape, dtype=dtype),
        normal(3, dtype=dtype, seed=1),
        normal(3, dtype=dtype, seed=2),
    )
    epsilon = np.dtype(dtype).type(1e-3)
    found = interpret(lambda v: mb.instance_norm(x=v, gamma=gamma, beta=beta, epsilon=epsilon), x)
    wanted = F.instance_norm(wide(x), weight=wide(gamma), bias=wide(beta), eps=float(epsilon))
    close(found, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [[-1], [2, 3], [1, 2, 3]])
def test_layer_norm(axes, dtype):
    x = normal(2, 3, 4, 5, dtype=dtype)
    shape = [x.shape[axis] for axis in axes]
    gamma, beta = normal(*shape, dtype=dtype, seed=1), normal(*shape, dtype=dtype, seed=2)
    epsilon = np.dtype(dtype).type(1e-3)
    found = interpret(
        lambda v: mb.layer_norm(x=v, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon), x
    )
    wanted = F.layer_norm(wide(x), shape, wide(gamma), wide(beta), float(epsilon))
    close(found, wanted, dtype)


def test_layer_norm_over_an_axis_in_the_middle():
    x = normal(2, 3, 4, 5)
    found = interpret(lambda v: mb.layer_norm(x=v, axes=[1], epsilon=np.float32(1e-5)), x)
    wanted = F.layer_norm(wide(x).movedim(1, -1), [3]).movedim(-1, 1)
    close(found, wanted)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_l2_norm(shape):
    x = normal(*shape)
    found = interpret(lambda v: mb.l2_norm(x=v, epsilon=np.float32(1e-2)), x)
    flat = x.astype(np.float64).reshape(-1, 60)
    wanted = flat / np.sqrt((flat**2).sum(1, keepdims=True) + 1e-2)
    close(found, wanted.reshape(shape))


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("shape", [(1, 7, 5), (2, 7, 3, 4)])
def test_local_response_norm(size, shape):
    x = normal(*shape)
    found = interpret(
        lambda v: mb.local_response_norm(x=v, size=size, alpha=0.5, beta=0.6, k=1.5), x
    )
    close(found, F.local_response_norm(wide(x), size, alpha=0.5, beta=0.6, k=1.5))
