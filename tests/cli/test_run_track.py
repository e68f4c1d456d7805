"""``edgekit run --track``: a video in, identities out."""

import json

import pytest
from PIL import Image

from edgekit.runtimes.clip_writer import write_clip
from edgekit.runtimes.clips import open_clip

from ..dart_micro import dart_bundle, dart_model, frames  # noqa: F401 -- fixtures

COUNT = 5
FOLLOW = ("--track", "--track-threshold", "0.1", "--threshold", "0.05")


@pytest.fixture
def clip(tmp_path, frames, monkeypatch):  # noqa: F811
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    path = tmp_path / "clip.gif"
    write_clip(path, map(Image.fromarray, frames(COUNT)), 10, ".gif")
    return path


@pytest.fixture
def run(edgekit, dart_bundle):  # noqa: F811
    def go(*arguments, runtime="onnxruntime"):
        return edgekit("run", dart_bundle, *arguments, "--runtime", runtime)

    return go


def test_every_runtime_follows_what_is_asked_for(run, clip):
    done = run(clip, "--classes", "person,car", *FOLLOW, "--json", runtime="all")
    assert done.code == 0, done.err
    assert "random weights" in done.err
    results = done.document["results"]
    assert [one["runtime"] for one in results] == ["openvino", "onnxruntime"]
    for one in results:
        result = one["result"]
        assert [frame["number"] for frame in result["frames"]] == list(range(COUNT))
        assert result["frames"][0]["size"] == [90, 120]
        assert {track["label"] for track in result["tracks"]} <= {"person", "car"}
        # Confirmed by the third frame in which it is seen.
        assert min(track["first"] for track in result["tracks"]) == 2
        shown = {t["identity"] for f in result["frames"] for t in f["tracks"]}
        assert shown == {track["identity"] for track in result["tracks"]}


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".gif"])
def test_the_clip_is_drawn(run, clip, tmp_path, suffix):
    if suffix == ".mp4":
        pytest.importorskip("av")
    out = tmp_path / f"drawn{suffix}"
    done = run(clip, "--classes", "person", *FOLLOW, "-o", out)
    assert done.code == 0, done.err
    assert "random weights" in done.out
    assert f"things in {COUNT} frames" in done.out
    drawn = open_clip(out)
    assert drawn.rate == pytest.approx(10)
    before, after = list(open_clip(clip)), list(drawn)
    assert [one.shape for one in after] == [one.shape for one in before]
    # Boxes from the third frame on; before, the remark at the lower edge alone.
    changed = [
        (abs(a[:70].astype(int) - b[:70]) > 60).mean() for a, b in zip(after, before, strict=True)
    ]
    assert min(changed[2:]) > 5 * max(changed[:2])


def test_folders_and_videos_into_a_folder(run, clip, tmp_path, frames):  # noqa: F811
    pytest.importorskip("av")
    video, pictures, out = tmp_path / "street.mp4", tmp_path / "pictures", tmp_path / "out"
    write_clip(video, map(Image.fromarray, frames(COUNT)), 10, ".mp4")
    pictures.mkdir()
    for number, frame in enumerate(frames(COUNT)):
        Image.fromarray(frame).save(pictures / f"{number}.png")
    done = run(video, pictures, "--classes", "person", *FOLLOW, "-o", f"{out}/")
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == [
        "pictures.onnxruntime.webp",
        "results.json",
        "street.onnxruntime.mp4",
    ]
    assert len(list(open_clip(out / "street.onnxruntime.mp4"))) == COUNT
    results = json.loads((out / "results.json").read_text())["results"]
    assert [len(one["result"]["frames"]) for one in results] == [COUNT, COUNT]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["CLIP", "--track", "-o", "a.png"], 2, "a clip has many"),
        (["CLIP", "-o", "a.gif"], 2, "this is one picture"),
        (["CLIP", "--track-threshold", "0.5"], 2, "of --track"),
        (["CLIP", "--track", "--track-threshold", "5"], 2, "no share"),
        (["none.mp4", "--track"], 8, "does not exist"),
        (["VIDEO"], 2, "give --track"),
        (["STILL", "--track"], 8, "one frame"),
        (["VIDEO", "--track"], 8, "no video"),
    ],
)
def test_what_cannot_be_followed_is_refused(run, clip, tmp_path, arguments, code, said):
    if said == "no video":
        pytest.importorskip("av")
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 100)
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    names = {"CLIP": clip, "VIDEO": tmp_path / "broken.mp4", "STILL": tmp_path / "still.png"}
    done = run(*(names.get(argument, argument) for argument in arguments))
    assert done.code == code, done.err
    assert said in done.err
    assert sum("error:" in line for line in done.err.splitlines()) == 1


def test_other_tasks_follow_nothing(edgekit, bundle, clip):
    done = edgekit("run", bundle, clip, "--track")
    assert done.code == 2
    assert "--track does not apply" in done.err
