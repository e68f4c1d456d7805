"""Sweeps to play: which files, in which order, and how pages get their points."""

import struct

import numpy as np
import pytest

from edgekit.apps import sweeps
from edgekit.apps.sweeps import MADE_UP, MOST_DRAWN, open_sweeps, pack
from edgekit.errors import InputError
from edgekit.runtimes.synthetic_sweep import LAP


def unpacked(content: bytes):
    """Metres of the points, their intensities, and how many there were."""
    unit, total = struct.unpack_from("<fI", content)
    count = (len(content) - 8) // 7
    places = np.frombuffer(content, "<i2", 3 * count, 8).reshape(-1, 3) * unit
    return places, np.frombuffer(content, np.uint8, count, 8 + 6 * count), total


def test_points_are_thinned_evenly_and_told_in_centimetres(monkeypatch):
    points = np.zeros((1000, 5), np.float32)
    points[:, 0], points[:, 3] = np.arange(1000) / 10, np.arange(1000)
    points[7, 1], points[8, 3], points[9, 2], points[10, 0] = np.nan, np.inf, np.inf, 5000
    places, shades, total = unpacked(pack(points, 75.0))
    assert (len(places), total) == (997, 1000)
    assert np.abs(places[20:, 0] - points[23:, 0]).max() < 0.006
    assert (shades.min(), shades.max()) == (0, 255)
    monkeypatch.setattr(sweeps, "MOST_DRAWN", 100)
    places, _, total = unpacked(pack(points, 75.0))
    assert (len(places), total) == (100, 1000)
    assert np.diff(places[:, 0]).min() > 0.85
    assert np.diff(places[2:, 0]).max() < 1.15
    far, _, _ = unpacked(pack(np.float32([[900, -900, 3, 0]]), 1000.0))
    assert far[0] == pytest.approx([900, -900, 3], abs=0.03)
    assert len(unpacked(pack(np.zeros((0, 4), np.float32), 10.0))[0]) == 0
    assert MOST_DRAWN == 100_000


def test_sweeps_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    sweep = np.zeros((3, 4), np.float32)
    for name in ("a10.npy", "a9.npy", "B1.NPY", ".hidden.npy", "a1.txt"):
        with (tmp_path / name).open("wb") as file:
            np.save(file, sweep)
    found = open_sweeps(tmp_path)
    assert found.names == ("B1.NPY", "a9.npy", "a10.npy")
    assert found.source == tmp_path.name


def test_made_up_sweeps_where_nobody_gives_any():
    found = open_sweeps(None)
    assert (found.source, len(found)) == (MADE_UP, LAP)
    assert (found.read(0)[:100] != found.read(1)[:100]).any()


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match="no sweeps in"):
        open_sweeps(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"seven b")
    with pytest.raises(InputError, match="none of 1 sweeps") as caught:
        open_sweeps(tmp_path)
    assert "float32" in str(caught.value)


def test_a_fault_names_the_file_and_not_where_it_lies(tmp_path):
    np.zeros((3, 4), np.float32).tofile(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(b"seven b")
    found = open_sweeps(tmp_path)
    assert found.read(0).shape == (3, 4)
    with pytest.raises(InputError) as caught:
        found.read(1)
    assert str(caught.value) == "b.bin is no sweep: 7 bytes are no float32 numbers"
