"""Operators that move elements: shapes, slices, places, orders, sizes. All must be exact."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

import torch.nn.functional as F  # noqa: E402

from .mil_programs import builder, close, interpret, normal  # noqa: E402

mb = builder()
DTYPES = ("float32", "float16", "int32")


def numbers(*shape, dtype="float32"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_and_shape(dtype):
    x = numbers(2, 1, 3, 4, dtype=dtype)
    found = interpret(
        lambda v: (
            mb.transpose(x=v, perm=[3, 0, -2, 1]),
            mb.reshape(x=v, shape=[4, -1]),
            mb.reshape(x=v, shape=[0, 3, 1, 0]),
            mb.expand_dims(x=v, axes=[0, -1]),
            mb.squeeze(x=v, axes=[1]),
            mb.squeeze(x=v),
            mb.flatten2d(x=v, axis=2),
            mb.reverse(x=v, axes=[2, -1]),
            mb.reverse(x=v),
            mb.tile(x=v, reps=[1, 2, 1, 3]),
            mb.shape(x=v),
        ),
        x,
    )
    wanted = (
        x.transpose(3, 0, 2, 1),
        x.reshape(4, -1),
        x.reshape(2, 3, 1, 4),
        x[None, ..., None],
        x[:, 0],
        x[:, 0],
        x.reshape(2, 12),
        np.flip(x, (2, 3)),
        np.flip(x),
        np.tile(x, (1, 2, 1, 3)),
        np.array(x.shape, np.int32),
    )
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


def test_a_zero_counts_from_the_last_axis():
    """iOS 17: the last 0 is the last axis of the input, one too many is 1."""
    found = interpret(lambda v: mb.reshape(x=v, shape=[1, 0, -1, 0]), numbers(2, 50))
    assert found.shape == (1, 1, 2, 50)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_joining(axis, dtype):
    x, y = numbers(2, 3, 4, dtype=dtype), numbers(2, 3, 4, dtype=dtype) + np.dtype(dtype).type(50)
    found = interpret(
        lambda a, b: (
            mb.concat(values=(a, b, a), axis=axis),
            mb.stack(values=(a, b), axis=axis),
            mb.concat(values=(a, b), axis=axis, interleave=True),
            mb.concat(values=(a,), axis=axis),
        ),
        x,
        y,
    )
    close(found[0], np.concatenate([x, y, x], axis))
    close(found[1], np.stack([x, y], axis))
    woven = np.empty_like(np.concatenate([x, y], axis))
    np.moveaxis(woven, axis, 0)[0::2] = np.moveaxis(x, axis, 0)
    np.moveaxis(woven, axis, 0)[1::2] = np.moveaxis(y, axis, 0)
    close(found[2], woven)
    close(found[3], x)


def test_scalars_are_joined_to_a_vector():
    def build(x):
        sizes = mb.shape(x=x)
        return mb.concat(values=[mb.gather(x=sizes, indices=i, axis=0) for i in (2, 0)], axis=0)

    assert interpret(build, numbers(3, 4, 5)).tolist() == [5, 3]


def test_splitting():
    x = numbers(2, 6, 3)
    for part, wanted in zip(
        interpret(lambda v: tuple(mb.split(x=v, axis=1, split_sizes=[1, 3, 2])), x),
        np.split(x, [1, 4], 1),
        strict=True,
    ):
        close(part, wanted)
    for part, wanted in zip(
        interpret(lambda v: tuple(mb.split(x=v, axis=-2, num_splits=3)), x),
        np.split(x, 3, 1),
        strict=True,
    ):
        close(part, wanted)


def test_reshape_like():
    x, other = numbers(2, 15), numbers(5, 3, 2)
    found = interpret(
        lambda v, w: mb.reshape_like(
            x=v, ref_tensors=(v, w), begins=(0, 0), ends=(1, 2), end_masks=(False, False)
        ),
        x,
        other,
    )
    close(found, x.reshape(2, 5, 3))


def test_reverse_sequence():
    x = numbers(3, 2, 5)
    found = interpret(
        lambda v: mb.reverse_sequence(x=v, lengths=[2, 0, 5], seq_axis=2, batch_axis=0), x
    )
    wanted = x.copy()
    wanted[0, :, :2] = wanted[0, :, 1::-1]
    wanted[2] = wanted[2, :, ::-1]
    close(found, wanted)


@pytest.mark.parametrize("stride", [1, 2])
def test_sliding_windows(stride):
    x = normal(2, 7, 3)
    found = interpret(lambda v: mb.sliding_windows(x=v, axis=1, size=3, stride=stride), x)
    wanted = np.lib.stride_tricks.sliding_window_view(x, 3, 1)[:, ::stride]
    close(found, np.moveaxis(wanted, -1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_slice_by_index(dtype):
    x = numbers(4, 5, 6, 7, dtype=dtype)
    found = interpret(
        lambda v: (
            mb.slice_by_index(x=v, begin=[1, 0, -3, 2], end=[3, 5, -1, 3]),
            mb.slice_by_index(
                x=v,
                begin=[0, 4, 5, 0],
                end=[4, 0, 0, 7],
                stride=[2, -2, -1, 3],
                begin_mask=[True, False, False, False],
                end_mask=[False, False, True, True],
            ),
            mb.slice_by_index(
                x=v,
                begin=[2, 0, -2, 0],
                end=[0, 0, 0, 0],
                end_mask=[False, True, False, True],
                squeeze_mask=[True, False, True, False],
            ),
        ),
        x,
    )
    close(found[0], x[1:3, 0:5, -3:-1, 2:3])
    close(found[1], x[:4:2, 4:0:-2, 5::-1, 0::3])
    close(found[2], x[2, :, -2])


def test_slice_by_computed_places():
    x = numbers(5, 6)
    begin, end = np.array([1, 2], np.int32), np.array([4, 5], np.int32)
    close(
        interpret(lambda v, b, e: mb.slice_by_index(x=v, begin=b, end=e), x, begin, end),
        x[1:4, 2:5],
    )


def test_slice_by_size():
    x = numbers(5, 6, 4)
    found = interpret(lambda v: mb.slice_by_size(x=v, begin=[1, 2, -3], size=[3, -1, 2]), x)
    close(found, x[1:4, 2:, 1:3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_slice_update(dtype):
    x, update = numbers(4, 5, dtype=dtype), -numbers(2, 2, dtype=dtype)
    found = interpret(
        lambda v, u: mb.slice_update(x=v, update=u, begin=[0, 1], end=[4, 5], stride=[2, 3]),
        x,
        update,
    )
    wanted = x.copy()
    wanted[0:4:2, 1:5:3] = update
    close(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(axis, dtype):
    x, indices = numbers(4, 5, 6, dtype=dtype), np.array([[3, 0], [1, 1]], np.int32)
    found = interpret(lambda v, i: mb.gather(x=v, indices=i, axis=axis), x, indices)
    close(found, np.take(x, indices, axis))
    single = interpret(lambda v: mb.gather(x=v, indices=np.int32(2), axis=axis), x)
    close(single, np.take(x, 2, axis))


def test_gather_of_one_element_is_a_scalar():
    x = numbers(4)
    found = interpret(lambda v: mb.gather(x=v, indices=np.int32(2), axis=0), x)
    assert (found.shape, found.item()) == ((), 2)


def test_gather_in_batches():
    x, indices = numbers(2, 5, 3), np.array([[3, 0], [1, 4]], np.int32)
    found = interpret(lambda v, i: mb.gather(x=v, indices=i, axis=1, batch_dims=1), x, indices)
    close(found, np.stack([x[0][indices[0]], x[1][indices[1]]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, -1])
def test_gather_along_axis(axis, dtype):
    x = numbers(3, 4, dtype=dtype)
    indices = np.array([[0, 2, 1, 1], [2, 2, 0, 1], [1, 0, 0, 0]], np.int32)
    found = interpret(lambda v, i: mb.gather_along_axis(x=v, indices=i, axis=axis), x, indices)
    close(found, np.take_along_axis(x, indices, axis))


def test_gather_nd():
    x, indices = numbers(3, 4, 5), np.array([[[0, 1], [2, 3]], [[1, 1], [2, 0]]], np.int32)
    found = interpret(lambda v, i: mb.gather_nd(x=v, indices=i), x, indices)
    close(found, x[indices[..., 0], indices[..., 1]])
    batched = interpret(
        lambda v: mb.gather_nd(x=v, indices=np.array([[[1], [3]]] * 3, np.int32), batch_dims=1), x
    )
    close(batched, x[:, [1, 3]])


@pytest.mark.parametrize("build", ["gather", "gather_along_axis", "gather_nd"])
def test_what_is_read_outside_is_marked(build):
    """From iOS 17 on it is undefined, also for negative indices."""
    x, indices = normal(4), np.array([1, -1, 4], np.int32)
    if build == "gather_nd":
        found = interpret(lambda v, i: mb.gather_nd(x=v, indices=i), x, indices[:, None])
    else:
        found = interpret(lambda v, i: getattr(mb, build)(x=v, indices=i, axis=0), x, indices)
    assert np.isnan(found).tolist() == [False, True, True]
    assert found[0] == x[1]


MODES = {
    "update": lambda data, at, value: data.__setitem__(at, value),
    "add": np.add.at,
    "sub": np.subtract.at,
    "mul": np.multiply.at,
    "div": np.divide.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


@pytest.mark.parametrize("mode", MODES)
def test_scatter(mode):
    data = normal(4, 3)
    indices = np.array([2, 0], np.int32) if mode == "update" else np.array([2, 0, 2], np.int32)
    updates = normal(len(indices), 3, seed=1) + 3
    found = interpret(
        lambda d, u: mb.scatter(data=d, indices=indices, updates=u, axis=0, mode=mode),
        data,
        updates,
    )
    wanted = data.copy()
    MODES[mode](wanted, indices, updates)
    close(found, wanted)
    found = interpret(
        lambda d, u: mb.scatter(data=d, indices=indices, updates=u, axis=-1, mode=mode),
        data.T.copy(),
        updates.T.copy(),
    )
    close(found, wanted.T)
    found = interpret(
        lambda d, u: mb.scatter_nd(data=d, indices=indices[:, None], updates=u, mode=mode),
        data,
        updates,
    )
    close(found, wanted)


@pytest.mark.parametrize("mode", ["update", "add", "max"])
@pytest.mark.parametrize("axis", [0, 1])
def test_scatter_along_axis(axis, mode):
    data, updates = normal(3, 4), normal(2, 4, seed=1)
    indices = np.array([[0, 1, 2, 2], [2, 0, 1, 0]], np.int32)
    if axis == 1:
        data, updates, indices = data.T.copy(), updates.T.copy(), indices.T.copy()
    found = interpret(
        lambda d, u: mb.scatter_along_axis(
            data=d, indices=indices, updates=u, axis=axis, mode=mode
        ),
        data,
        updates,
    )
    wanted = data.copy()
    for place in np.ndindex(indices.shape):
        at = tuple(indices[place] if a == axis else p for a, p in enumerate(place))
        old, new = wanted[at], updates[place]
        wanted[at] = {"update": new, "add": old + new, "max": max(old, new)}[mode]
    close(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ascending", [False, True])
def test_orders(ascending, dtype):
    x = np.random.default_rng(0).permutation(30).reshape(2, 5, 3).astype(dtype)
    found = interpret(
        lambda v: (
            *mb.topk(x=v, k=2, axis=1, ascending=ascending),
            mb.argsort(x=v, axis=1, ascending=ascending),
        ),
        x,
    )
    order = np.argsort(x if ascending else -x, 1)
    close(found[0], np.take_along_axis(x, order[:, :2], 1))
    close(found[1], order[:, :2])
    close(found[2], order)


def test_topk_without_indices():
    x = np.array([3, 1, 2], np.float32)
    values = interpret(lambda v: mb.topk(x=v, k=3, return_indices=False), x)
    assert np.asarray(values).tolist() == [3, 2, 1]


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumsum(exclusive, reverse):
    x = numbers(2, 5)
    found = interpret(lambda v: mb.cumsum(x=v, axis=1, exclusive=exclusive, reverse=reverse), x)
    given = np.flip(x, 1) if reverse else x
    wanted = np.cumsum(given, 1) - (given if exclusive else 0)
    close(found, np.flip(wanted, 1) if reverse else wanted)


def test_non_zero():
    x = np.array([[0, 2, 0], [1, 0, 3]], np.float32)
    assert interpret(lambda v: mb.non_zero(x=v), x).tolist() == [[0, 1], [1, 0], [1, 2]]


REDUCTIONS = {
    "reduce_l1_norm": lambda x, a: np.abs(x).sum(a),
    "reduce_l2_norm": lambda x, a: np.sqrt(np.square(x).sum(a)),
    "reduce_log_sum": lambda x, a: np.log(x.sum(a)),
    "reduce_log_sum_exp": lambda x, a: np.log(np.exp(x).sum(a)),
    "reduce_max": lambda x, a: x.max(a),
    "reduce_mean": lambda x, a: x.mean(a),
    "reduce_min": lambda x, a: x.min(a),
    "reduce_prod": lambda x, a: x.prod(a),
    "reduce_sum": lambda x, a: x.sum(a),
    "reduce_sum_square": lambda x, a: np.square(x).sum(a),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name, dtype):
    x = np.abs(normal(2, 3, 4, dtype=dtype)) + np.dtype(dtype).type(0.1)
    found = interpret(
        lambda v: (
            getattr(mb, name)(x=v, axes=[-1, 0], keep_dims=False),
            getattr(mb, name)(x=v, axes=[1], keep_dims=True),
            getattr(mb, name)(x=v),
        ),
        x,
    )
    wide = x.astype(np.float64)
    close(found[0], REDUCTIONS[name](wide, (0, 2)), dtype)
    close(found[1], np.expand_dims(REDUCTIONS[name](wide, 1), 1), dtype)
    close(found[2], REDUCTIONS[name](wide, None), dtype)


@pytest.mark.parametrize("name", ["reduce_sum", "reduce_max", "reduce_prod"])
def test_reduction_of_integers(name):
    x = numbers(2, 3, dtype="int32") - 2
    found = interpret(lambda v: getattr(mb, name)(x=v, axes=[1]), x)
    assert (found.dtype, found.tolist()) == (np.int32, REDUCTIONS[name](x, 1).tolist())


@pytest.mark.parametrize("axis", [0, -1])
def test_reduce_arg(axis):
    x = np.random.default_rng(0).permutation(12).reshape(3, 4).astype(np.float32)
    found = interpret(
        lambda v: (
            mb.reduce_argmax(x=v, axis=axis),
            mb.reduce_argmin(x=v, axis=axis, keep_dims=True),
        ),
        x,
    )
    close(found[0], np.argmax(x, axis))
    close(found[1], np.argmin(x, axis, keepdims=True))


def test_filling():
    x = np.array([2, 3], np.int32)
    found = interpret(
        lambda s: (
            mb.fill(shape=s, value=1.5),
            mb.fill_like(ref_tensor=s, value=True),
            mb.range_1d(start=1, end=9, step=3),
        ),
        x,
    )
    close(found[0], np.full((2, 3), 1.5, np.float32))
    assert found[1].tolist() == [True, True]
    assert (found[2].dtype, found[2].tolist()) == (np.int32, [1, 4, 7])


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    x = np.array([[2, 0, 1], [1, 1, 2]], np.int32)
    found = interpret(
        lambda v: mb.one_hot(
            indices=v, one_hot_vector_size=4, axis=axis, on_value=2.0, off_value=-1.0
        ),
        x,
    )
    hot = np.where(np.eye(4)[x] > 0, 2.0, -1.0).astype(np.float32)
    close(found, np.moveaxis(hot, -1, axis))


@pytest.mark.parametrize(("lower", "upper"), [(0, -1), (-1, 0), (1, 2), (0, 0)])
def test_band_part(lower, upper):
    x = normal(2, 4, 5)
    found = interpret(lambda v: mb.band_part(x=v, lower=lower, upper=upper), x)
    below = x if lower < 0 else np.triu(x, -lower)
    close(found, below if upper < 0 else np.tril(below, upper))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad(mode, dtype):
    x, value = normal(2, 3, 4, dtype=dtype), np.dtype(dtype).type(0.5)
    found = interpret(lambda v: mb.pad(x=v, pad=[1, 2, 3, 0], mode=mode, constant_val=value), x)
    numpys = {"constant": {"constant_values": value}, "reflect": {}, "replicate": {}}[mode]
    name = "edge" if mode == "replicate" else mode
    close(found, np.pad(x, [(0, 0), (1, 2), (3, 0)], name, **numpys), dtype)


def test_spaces():
    x = normal(2, 8, 4, 6)
    found = interpret(
        lambda v: (
            mb.pixel_shuffle(x=v, upscale_factor=2),
            mb.pixel_unshuffle(x=v, downscale_factor=np.uint32(2)),
            mb.depth_to_space(x=v, block_size=2),
            mb.space_to_depth(x=v, block_size=2),
            mb.crop(x=v, crop_height=[1, 0], crop_width=[2, 1]),
        ),
        x,
    )
    close(found[0], F.pixel_shuffle(torch.from_numpy(x), 2))
    close(found[1], F.pixel_unshuffle(torch.from_numpy(x), 2))
    # TensorFlow's order: the place in the block is the slow part of the channel's number.
    for dy, dx in np.ndindex(2, 2):
        part = 2 * dy + dx
        close(found[2][:, :, dy::2, dx::2], x[:, 2 * part : 2 * part + 2])
        close(found[3][:, 8 * part : 8 * part + 8], x[:, :, dy::2, dx::2])
    close(found[4], x[:, :, 1:, 2:-1])


def test_batches():
    x = normal(2, 3, 4, 6)
    found = interpret(
        lambda v: mb.space_to_batch(x=v, block_shape=[2, 3], paddings=[[1, 1], [0, 3]]), x
    )
    around = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 3)])
    for dy, dx in np.ndindex(2, 3):
        part = 3 * dy + dx
        close(found[2 * part : 2 * part + 2], around[:, :, dy::2, dx::3])
    back = interpret(
        lambda v: mb.batch_to_space(x=v, block_shape=[2, 3], crops=[[1, 1], [0, 3]]), found
    )
    close(back, x)
