"""Moving pictures, in and out: the same frames in order; one clear line where there are none."""

import sys

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import InputError, MissingBackendError, UsageError
from edgekit.runtimes.clip_writer import SUFFIXES, write_clip
from edgekit.runtimes.clips import open_clip

# What a codec may change: H.264 stores colours for every second pixel, GIF 256 of them.
LOSS = 12.0
RATE = 12.5


def pictures(frames, count=6):
    return [Image.fromarray(frame) for frame in frames(count)]


@pytest.fixture
def frames(frames):
    """As ever, without the noise, that no codec keeps."""
    return lambda count: [np.where(f > 90, f, 40).astype(np.uint8) for f in frames(count)]


@pytest.fixture(params=SUFFIXES)
def written(request, frames, tmp_path):
    if request.param == ".mp4":
        pytest.importorskip("av")
    path = tmp_path / f"clip{request.param}"
    write_clip(path, iter(pictures(frames)), RATE, request.param)
    return path


def test_what_was_written_is_read_frame_by_frame(written, frames):
    clip = open_clip(written)
    assert clip.rate == pytest.approx(RATE)
    for _ in range(2):  # each time anew
        read = list(clip)
        assert len(read) == 6
        for one, other in zip(read, frames(6), strict=True):
            assert one.dtype == np.uint8
            assert np.abs(one.astype(float) - other).mean() < LOSS
    # The control: frames apart differ by more than what codecs lose.
    assert np.abs(read[0].astype(float) - frames(6)[5]).mean() > LOSS


def test_a_folder_is_read_by_number(frames, tmp_path):
    for number, picture in enumerate(pictures(frames, 11)):
        picture.save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    read = list(open_clip(tmp_path))
    assert all(np.array_equal(*pair) for pair in zip(read, frames(11), strict=True))


def test_a_video_is_turned_as_a_player_turns_it(frames, tmp_path):
    """A telephone's matrix: the picture is to be turned by a quarter, with the clock."""
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    write_clip(path, iter(pictures(frames)), RATE, ".mp4")
    data = path.read_bytes()
    one, end = bytes([0, 1, 0, 0]), bytes([0x40, 0, 0, 0])
    plain = one + bytes(12) + one + bytes(12) + end
    turned = bytes(4) + one + bytes(4) + bytes([255, 255, 0, 0]) + bytes(16) + end
    header = data.index(plain, data.index(b"tkhd"))
    upright = next(iter(open_clip(path)))
    path.write_bytes(data[:header] + turned + data[header + len(plain) :])
    assert np.array_equal(next(iter(open_clip(path))), np.rot90(upright, -1))


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "a.txt", "none.mp4", "folder"])
def test_what_does_not_move_is_refused(name, tmp_path):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "a.png":
        Image.new("RGB", (4, 4)).save(path)
    elif name != "none.mp4":
        path.write_bytes(b"#EXTM3U\n" + bytes(100))
    if name == "a.mp4":
        pytest.importorskip("av")
    with pytest.raises(InputError):
        open_clip(path)


def test_a_playlist_opens_no_other_file(frames, tmp_path):
    """FFmpeg would follow it; here it is no video, whatever its name says."""
    av = pytest.importorskip("av")
    write_clip(tmp_path / "other.mp4", iter(pictures(frames)), RATE, ".mp4")
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with path.open("rb") as file, av.open(file) as container:
        assert container.format.name == "concat"
    with pytest.raises(InputError, match="no video"):
        open_clip(path)


def test_a_damaged_clip_gives_what_is_before_the_damage(frames, tmp_path):
    path = tmp_path / "clip.gif"
    write_clip(path, iter(pictures(frames, 8)), RATE, ".gif")
    clip, data = open_clip(path), path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    read = []
    with pytest.raises(InputError, match="clip"):
        read.extend(clip)
    assert 0 < len(read) < 8


def test_without_pyav_a_video_says_what_to_install(tmp_path, monkeypatch, frames):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(MissingBackendError, match="PyAV"):
        open_clip(tmp_path / "a.mp4")
    with pytest.raises(MissingBackendError):
        write_clip(tmp_path / "b.mp4", iter(pictures(frames)), RATE, ".mp4")
    write_clip(tmp_path / "b.gif", iter(pictures(frames)), RATE, ".gif")
    assert len(list(open_clip(tmp_path / "b.gif"))) == 6


def test_frames_that_make_no_clip_are_refused(tmp_path):
    sizes = [Image.new("RGB", size) for size in ((8, 8), (8, 6))]
    for suffix in SUFFIXES[1:]:
        with pytest.raises(UsageError, match="8x6"):
            write_clip(tmp_path / f"a{suffix}", iter(sizes), RATE, suffix)
        with pytest.raises(InputError, match="no frames"):
            write_clip(tmp_path / f"a{suffix}", iter([]), RATE, suffix)
    pytest.importorskip("av")
    with pytest.raises(UsageError, match="2x2"):
        write_clip(tmp_path / "a.mp4", iter([Image.new("RGB", (1, 8))]), RATE, ".mp4")
