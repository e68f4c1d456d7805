"""Sweeps as files: what is read, and what is refused with a reason."""

import contextlib
import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes import lzf, point_clouds
from edgekit.runtimes.point_clouds import read_points
from edgekit.runtimes.synthetic_sweep import LAP, synthetic_drive, synthetic_sweep


@pytest.fixture(scope="module")
def sweep() -> np.ndarray:
    points = synthetic_sweep(8, 250)
    points[:, 4] = np.linspace(0, 0.45, len(points))
    return points


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("suffix", [".bin", ".npy", ".PCD.BIN"])
def test_bin_and_npy(sweep, columns, suffix, tmp_path):
    path = tmp_path / f"sweep{suffix}"
    wanted = np.ascontiguousarray(sweep[:, :columns])
    if suffix == ".npy":
        np.save(path, wanted)
    else:
        wanted.tofile(path)
    np.testing.assert_array_equal(read_points(path), wanted)


@pytest.mark.parametrize("columns", [4, 5])
def test_a_bin_file_that_could_be_read_both_ways_is_read_the_right_way(sweep, columns, tmp_path):
    wanted = np.ascontiguousarray(sweep[: len(sweep) // 20 * 20, :columns])
    assert wanted.size % 20 == 0
    wanted.tofile(tmp_path / "a.bin")
    assert read_points(tmp_path / "a.bin").shape == wanted.shape


def test_the_kitti_sweep(shared_data):
    points = read_points(shared_data / "data/lidar/kitti_000008.bin")
    assert points.shape == (17238, 4)
    assert np.isfinite(points).all()


HEADER = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS {fields}
SIZE {sizes}
TYPE {types}
COUNT {counts}
WIDTH {points}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {points}
DATA {data}
"""


def pcd(fields, sizes, types, points, data, body):
    header = HEADER.format(
        fields=fields,
        sizes=sizes,
        types=types,
        counts=" ".join("1" for _ in fields.split()),
        points=points,
        data=data,
    )
    return header.encode() + body


def test_pcd_in_ascii(tmp_path):
    path = tmp_path / "a.pcd"
    body = b"1 2 3 0.5\nnan nan nan 0\n"
    path.write_bytes(pcd("x y z intensity", "4 4 4 4", "F F F F", 2, "ascii", body))
    points = read_points(path)
    assert points[0].tolist() == [1, 2, 3, 0.5]
    assert np.isnan(points[1, :3]).all()


def test_pcd_in_binary_with_other_fields_in_another_order(tmp_path):
    path = tmp_path / "a.pcd"
    kind = [("ring", "<u2"), ("z", "<f4"), ("y", "<f4"), ("x", "<f8"), ("intensity", "<u1")]
    records = np.array([(7, 3, 2, 1, 200), (8, 6, 5, 4, 100)], kind)
    names, sizes = "ring z y x intensity", "2 4 4 8 1"
    path.write_bytes(pcd(names, sizes, "U F F F U", 2, "binary", records.tobytes()))
    assert read_points(path).tolist() == [[1, 2, 3, 200, 7], [4, 5, 6, 100, 8]]


def test_pcd_without_intensity(tmp_path):
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd("x y z", "4 4 4", "F F F", 1, "ascii", b"1 2 3\n"))
    assert read_points(path).tolist() == [[1, 2, 3, 0]]


def literal(content):
    """In LZF, without compressing anything."""
    pieces = [content[at : at + 32] for at in range(0, len(content), 32)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def compressed(packed, size):
    body = len(packed).to_bytes(4, "little") + size.to_bytes(4, "little") + packed
    return pcd("x y z intensity", "4 4 4 1", "F F F U", 3, "binary_compressed", body)


COLUMNS = b"".join(np.float32(column).tobytes() for column in ([1, 2, 3], [4] * 3, [0] * 3))
COLUMNS += bytes([7, 8, 9])


def test_pcd_compressed_field_by_field(tmp_path):
    path = tmp_path / "a.pcd"
    wanted = [[1, 4, 0, 7], [2, 4, 0, 8], [3, 4, 0, 9]]
    # y repeats 4 bytes, z is one byte again and again: references into what they make.
    y = literal(np.float32(4).tobytes()) + bytes([(6 << 5), 3])
    z = literal(b"\0") + bytes([(7 << 5), 2, 0])
    short = literal(COLUMNS[:12]) + y + z + literal(bytes([7, 8, 9]))
    assert len(short) < len(COLUMNS)
    for packed in (literal(COLUMNS), short):
        path.write_bytes(compressed(packed, len(COLUMNS)))
        assert read_points(path).tolist() == wanted


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (literal(COLUMNS)[:-1], "ends within a piece"),
        (literal(COLUMNS[:-1]), "38 bytes came out"),
        (literal(COLUMNS + b"12"), "41 bytes came out"),
        (bytes([(1 << 5), 0]), "before its begin"),
        (bytes([0, 1, (7 << 5)]), "ends within a piece"),
        (bytes([0, 1, (1 << 5)]), "ends within a piece"),
        (b"", "0 bytes came out"),
    ],
)
def test_broken_compression_is_refused_with_a_reason(packed, reason, tmp_path):
    path = tmp_path / "a.pcd"
    path.write_bytes(compressed(packed, len(COLUMNS)))
    with pytest.raises(InputError, match=reason):
        read_points(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_decompressed_or_refused(packed):
    with contextlib.suppress(ValueError):
        assert len(lzf.decompress(packed, 64)) == 64


GOOD = pcd("x y z", "4 4 4", "F F F", 1, "ascii", b"1 2 3\n")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.bin", b"", "no bytes"),
        ("a.bin", b"123", "no float32"),
        ("a.bin", np.zeros(7, np.float32).tobytes(), "no rows of 4 or of 5"),
        ("a.npy", b"\x93NUMPY nonsense", "damaged"),
        ("a.npy", b"", "no bytes"),
        ("a.pcd", b"nothing", "DATA"),
        ("a.pcd", GOOD.replace(b"POINTS 1", b"POINTS 9999999999"), "at most"),
        ("a.pcd", GOOD.replace(b"POINTS 1", b"POINTS -1"), "at most"),
        ("a.pcd", GOOD.replace(b"POINTS 1", b"POINTS 4"), "reshape"),
        ("a.pcd", GOOD.replace(b"FIELDS x y z", b"FIELDS x y w"), "lacks z"),
        ("a.pcd", GOOD.replace(b"ascii", b"binary"), "buffer"),
        ("a.pcd", GOOD.replace(b"ascii", b"binary_zipped"), "not known"),
        ("a.pcd", GOOD.replace(b"ascii", b"binary_compressed"), "not as long"),
        ("a.pcd", GOOD.replace(b"COUNT 1 1 1", b"COUNT 1 1 3"), "more than one number"),
    ],
)
def test_damaged_files_are_refused_with_a_reason(name, content, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_points(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 3)), np.zeros((3, 6)), np.zeros(5), np.zeros((2, 5), complex)],
)
def test_wrong_columns_are_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    for source in (array, tmp_path / "a.npy"):
        with pytest.raises(InputError, match="holds"):
            read_points(source)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print] * 4], object), allow_pickle=True)
    with pytest.raises(InputError, match="holds no array"):
        read_points(tmp_path / "a.npy")


def test_a_missing_file_and_too_many_points(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "none.bin")
    monkeypatch.setattr(point_clouds, "MOST_POINTS", 10)
    with pytest.raises(InputError, match="at most 10"):
        read_points(np.zeros((11, 4), np.float32))


def test_a_synthetic_sweep_is_the_same_every_time_and_lies_on_the_ground():
    one, two = synthetic_sweep(32, 600), synthetic_sweep(32, 600)
    np.testing.assert_array_equal(one, two)
    assert (synthetic_sweep(32, 600, seed=1) != one[:1]).any()
    assert one.dtype == np.float32
    assert one.shape[1] == 5
    assert -0.2 < one[:, 2].min() < 0.2
    assert 1 < one[:, 2].max() < 4
    assert np.hypot(one[:, 0], one[:, 1]).max() < 100


def test_a_synthetic_drive_passes_what_stands_beside_it():
    def things(frame):
        points = synthetic_drive(frame, 32, 900)
        np.testing.assert_array_equal(points, synthetic_drive(frame, 32, 900))
        return np.unique(np.floor(points[points[:, 2] > 0.5, :2]).astype(int), axis=0)

    def alike(one, other):
        return len(set(map(tuple, one)) & set(map(tuple, other))) / len(one)

    start, later = things(0), things(10)
    assert np.abs(start[np.abs(start[:, 0]) < 60, 1]).min() >= 2 - 1  # whole metres
    assert alike(start, things(LAP)) > 0.9
    moved = alike(np.add(later, (10, 0)), start)
    assert moved > 2 * alike(later, start)


def test_the_example_of_lzf():
    assert doctest.testmod(lzf).attempted == 1
    assert doctest.testmod(lzf).failed == 0
