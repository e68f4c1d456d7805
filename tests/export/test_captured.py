"""Dynamic axes that are asked of a model with several graphs and several inputs."""

import pytest

pytest.importorskip("torch")

from edgekit.export.captured import _asked, _moved
from edgekit.export.options import ExportOptions, resolve_axes
from edgekit.models.dart_graphs import DartSize, graphs_of
from edgekit.models.spec import LoadedModel

GRAPHS = {graph.name: graph for graph in graphs_of(DartSize(classes=4), masks=True)}
MODEL = LoadedModel("m", "m", None, tuple(GRAPHS.values()), "random")


def axes_of(graph: str, **asked):
    options = ExportOptions(dynamic=asked)
    mine = _asked(MODEL, GRAPHS[graph], options)
    return _moved(GRAPHS[graph].dynamic, resolve_axes(mine, GRAPHS[graph].inputs))


def test_asking_for_one_input_moves_those_that_go_with_it():
    found = axes_of("detection", text_features={"batch": (1, 16)})
    assert found == {"text_features": {0: (1, 16)}, "attention_mask": {0: (1, 16)}}


def test_another_graphs_inputs_are_none_of_this_ones():
    assert axes_of("vision", text_features={"batch": (1, 16)}) == {}
    assert axes_of("text", text_features={"batch": (1, 16)}) == {
        "input_ids": {},
        "attention_mask": {},
    }


def test_an_axis_that_was_fixed_is_made_dynamic_alone():
    assert axes_of("vision", image={"batch": (1, 2)}) == {"image": {0: (1, 2)}}


def test_a_name_of_no_graph_is_passed_on_to_be_refused():
    options = ExportOptions(dynamic={"nothing": {"batch": (1, 2)}})
    assert "nothing" in _asked(MODEL, GRAPHS["vision"], options)
