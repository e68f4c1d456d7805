"""Where the report's marks go and how its numbers read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.export import report_charts as charts
from edgekit.export import report_words as words


@given(st.text())
def test_pieces_lose_nothing(name):
    assert "".join(words.pieces(name)) == name


def test_exact_and_infinite_figures_have_their_own_places():
    entries = [
        charts.ParityEntry("a", "", "proven", 0.0, 1e-9, ""),
        charts.ParityEntry("b", "", "proven", 1e-14, 1e-9, ""),
        charts.ParityEntry("c", "", "failed", 1e-3, 1e-9, ""),
        charts.ParityEntry("d", "", "failed", math.inf, 1e-9, ""),
        charts.ParityEntry("e", "", "failed", math.nan, 1e-9, ""),
        charts.ParityEntry("f", "", "partial", None, 1e-9, "converted, not run"),
    ]
    plot = charts.parity_plot(entries)
    at = {row.label: float(row.x.rstrip("%")) for row in plot.rows}
    limit = float(plot.rows[0].limit.rstrip("%"))
    assert at["a"] < at["b"] < limit < at["c"] < at["d"] == at["e"] < 100
    assert " ".join(r.kind for r in plot.rows) == "exact point point beyond beyond none"
    assert plot.rows[0].value == "exact"
    assert plot.rows[3].value == "∞"
    assert plot.rows[5].said == "converted, not run"
    assert plot.ticks[0].label == "exact"
    assert plot.ticks[-1].label == "∞"


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1.0, 1e300, 1.7e308])
def test_parity_axis_holds_any_figure(value):
    plot = charts.parity_plot([charts.ParityEntry("a", "", "proven", value, 1e-9, "")])
    places = [float(t.x.rstrip("%")) for t in plot.ticks] + [float(plot.rows[0].x.rstrip("%"))]
    assert all(0 <= x <= 100 for x in places)
    assert len(plot.ticks) <= 8


def test_log_axis_is_logarithmic():
    entries = [charts.ParityEntry(str(e), "", "proven", 10.0**e, None, "") for e in (-12, -9, -6)]
    a, b, c = (float(row.x.rstrip("%")) for row in charts.parity_plot(entries).rows)
    assert b - a == pytest.approx(c - b, abs=0.02)


def test_one_outlier_does_not_flatten_the_bars():
    calm = {"p50": 10.0, "p90": 11.0, "p99": 12.0}
    wild = {"p50": 10.0, "p90": 11.0, "p99": 900.0}
    assert charts.latency_top([calm]) == pytest.approx(12.24)
    top = charts.latency_top([calm, wild])
    assert top == pytest.approx(13.75)
    mark = charts.whisker("wild", wild, top)
    assert mark.cut
    assert mark.p99 == "100.00%"
    assert "p99 900 ms" in mark.summary
    assert not charts.whisker("calm", calm, top).cut


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.size(0), "0 B"),
        (words.size(999), "999 B"),
        (words.size(1000), "1.0 kB"),
        (words.size(999_999), "1.0 MB"),
        (words.size(41_900_000), "41.9 MB"),
        (words.count(10_434_600), "10.4 M"),
        (words.count(12), "12"),
        (words.scientific(3.2e-14), "3.2e-14"),
        (words.scientific(1e-9), "1e-9"),
        (words.scientific(0.0421), "0.0421"),
        (words.scientific(-math.inf), "-∞"),
        (words.milliseconds(None), words.NONE),
        (words.milliseconds(1234.6), "1,235"),
        (words.power_of_ten(-12), "10⁻¹²"),
        (words.joined(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_read_well(written, expected):
    assert written == expected


def test_axis_ticks_are_round_and_inside():
    assert charts.nice_ticks(10) == [0, 2, 4, 6, 8, 10]
    assert charts.nice_ticks(0.3)[-1] <= 0.3 + 1e-12
    assert charts.nice_ticks(0) == [0.0]
