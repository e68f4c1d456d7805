"""``edgekit report history``: from a real benchmark to a table and a page."""

import pytest


def test_what_bench_saves_is_drawn(edgekit, bundle, tmp_path):
    for _ in range(2):
        done = edgekit("bench", bundle, "--repeat", 2, "-r", "onnxruntime", "-t", 1, "--save")
        assert done.code == 0, done.err
    document = edgekit("report", "history", "--json").document
    (line,) = document["series"]
    assert (line["model"], line["runtime"], line["threads"]) == ("tiny", "onnxruntime", 1)
    assert [point["ratio"] is None for point in line["points"]] == [True, False]
    assert line["points"][1]["versions"]["onnxruntime"]
    page = tmp_path / "history.html"
    people = edgekit("report", "history", bundle, "-o", page)
    assert (people.code, people.err) == (0, "")
    assert "onnxruntime, 1 thread, fp32" in people.out
    assert page.read_text().count("<circle") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing was measured: "),
        (["resnet"], "nothing was measured of resnet"),
        (["-o", "history.pdf"], "history.pdf is no name of a page"),
    ],
)
def test_nothing_to_draw(edgekit, arguments, words):
    done = edgekit("report", "history", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
