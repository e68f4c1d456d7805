"""Rows that a network picked: what is a tie, and what is another network."""

import numpy as np
import pytest

from edgekit.export.match_rows import matched
from edgekit.export.reference import Reference
from edgekit.export.samples import Sample
from edgekit.export.verify import judge
from edgekit.manifest import PickedRows

PICKED = PickedRows(keys=("classes", "cells"), by="scores")
SCORES = np.float32([0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5])


def best(scores, count=5, order=None):
    """What a head picks of these scores, by any order among equals."""
    order = np.argsort(-scores, kind="stable")[:count] if order is None else np.array(order)
    return {
        "scores": scores[order][:, None],
        "boxes": np.stack([order * 1.0, order * 10.0], axis=1),
        "classes": order % 2,
        "cells": order // 2,
    }


class Answers:
    runtime, states = "made", ()

    def __init__(self, outputs):
        self.outputs = outputs

    def run(self, inputs):
        return self.outputs


def judged(actual):
    reference = Reference((Sample("made", {}),), (best(SCORES),))
    return judge(Answers(actual), reference, PICKED)


def test_another_order_and_another_one_of_equals_are_no_departure():
    near = SCORES + np.float32([0, 0, 1e-7, 0, 0, 0, 0])
    metrics, notes = judged(best(near, order=(1, 0, 2, 3, 6)))
    assert metrics.nmse < 1e-12
    assert notes == ("80.0 % of the rows were picked by both",)


def test_the_same_rows_leave_no_note():
    assert judged(best(SCORES)) == (judged(best(SCORES))[0], ())


@pytest.mark.parametrize("order", [(0, 1, 2, 4, 5), (0, 1, 3, 4, 5)])
def test_a_row_that_was_left_out_wrongly_is_a_departure(order):
    assert judged(best(SCORES, order=order))[0].nmse > 1e-3


def test_right_scores_of_wrong_cells_are_a_departure():
    wrong = best(SCORES) | {"cells": np.arange(5) + 100}
    metrics, notes = judged(wrong)
    assert np.isinf(metrics.nmse)
    assert any("no ties" in note for note in notes)


def test_a_wrong_value_in_a_row_of_both_is_found_in_any_order():
    wrong = best(SCORES, order=(4, 3, 2, 1, 0))
    wrong["boxes"][2, 1] += 1
    assert judged(wrong)[0].max_abs == 1


def test_another_count_is_handed_back():
    rows = matched(best(SCORES, 4), best(SCORES), PICKED)
    assert len(rows.actual["boxes"]) == 4
