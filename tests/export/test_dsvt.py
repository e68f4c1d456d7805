"""DSVT through the pipeline: one graph or split, whatever a target can, at any size of sweep."""

import os

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle
from edgekit.errors import InputError, UsageError
from edgekit.export import export
from edgekit.export.alternatives import settle
from edgekit.export.match_rows import matched
from edgekit.manifest import Artifact, Graph
from edgekit.models.spec import GraphSpec
from edgekit.runtimes import available, load, tasks
from edgekit.runtimes.synthetic_sweep import synthetic_sweep

from .small_dsvt import small_dsvt

NAMES = ("waymo-pillar", "waymo-voxel", "nuscenes-pillar")
SWEEPS = (7, 60, 900, 5000)


def near(count: int) -> np.ndarray:
    """Points of a sweep that lie within the small detectors' reach."""
    points = synthetic_sweep(48, 900)
    points[:, :2] *= 0.2
    points[:, 4] = 0.1
    return points[:: len(points) // count][:count]


FEW = {"blocks": (1,), "map_strides": ((1,), (2,), (2,))}  # a block of each kind
SHALLOW = {
    # Of four blocks alike, which pillars have, two: the windows of the second are shifted.
    "waymo-pillar": FEW | {"blocks": (2,)},
    "waymo-voxel": {},
    "nuscenes-pillar": FEW,
}
minutes = pytest.mark.skipif(
    not os.environ.get("EDGEKIT_SLOW"), reason="lowers for minutes: run it with EDGEKIT_SLOW=1"
)


@pytest.fixture(scope="module", params=NAMES)
def exported(request, tmp_path_factory):
    """A small detector's bundle for ONNX Runtime and OpenVINO, and the network itself."""
    model = small_dsvt(request.param, **SHALLOW[request.param])
    out = tmp_path_factory.mktemp("dsvt") / request.param
    return model, export(model, ["onnx", "openvino"], out, report=False)


@pytest.fixture(scope="module")
def stood_in(tmp_path_factory):
    """A bundle in which split stands in for whole on ExecuTorch, and what was said meanwhile."""
    # ExecuTorch's passes take seconds for every block.
    model = small_dsvt("waymo-pillar", **FEW)
    said: list[str] = []
    out = tmp_path_factory.mktemp("dsvt") / "stood-in"
    return model, export(model, ["executorch"], out, report=False, progress=said.append), said


def check_verified(result, graphs):
    assert result.ok, result.to_json()
    for target in result.targets:
        assert [graph.name for graph in target.graphs] == graphs
        for graph in target.graphs:
            assert graph.verify["level"] == "ran"
            assert graph.verify["passed"]
            assert graph.verify["metrics"]["nmse"] < 1e-8
            assert len(graph.verify["samples"]) == 3


def test_onnx_runtime_and_openvino_run_both_deployments(exported):
    check_verified(exported[1], ["split", "whole"])


def check_sweeps(model, bundle, runtime, graph):
    """Sweeps of several sizes, without another export, against the network itself."""
    with load(bundle, runtime, graph=graph) as session:
        task = tasks.for_bundle(bundle, session)
        assert task.deployment == graph
        method = model.module.split if graph == "split" else model.module
        for count in SWEEPS:
            inputs = task.prepare(near(count))
            found = session.run(inputs)
            with torch.inference_mode():
                answer = method(*(torch.from_numpy(value) for value in inputs.values()))
            wanted = {
                spec.name: value.numpy()
                for spec, value in zip(session.outputs, answer, strict=True)
            }
            rows = matched(found, wanted, model.graphs[0].picked)
            assert not rows.unexplained, count
            for name, value in rows.wanted.items():
                expected = value.astype(np.float64)
                error = ((rows.actual[name] - expected) ** 2).sum()
                assert error <= 1e-8 * max((expected**2).sum(), 1e-12), (count, name)


@minutes
def test_executorch_gets_the_split_deployment_and_says_so(stood_in):
    model, result, said = stood_in
    check_verified(result, ["split"])
    (told,) = [line for line in said if "deployed split, not whole" in line]
    assert told.startswith("executorch")
    assert available(result.bundle) == ["executorch"]
    assert available(result.bundle, "whole") == []
    with Bundle.open(result.bundle) as bundle:
        (stand_in,) = bundle.graph("split").artifacts
        assert stand_in.details["instead_of"] == "whole"
        assert "executorch cannot lower the graph" in stand_in.details["because"]
        assert not list(bundle.root.glob("graphs/whole/executorch/*"))
        with pytest.raises(UsageError, match="nothing that executorch may run"):
            load(bundle, "executorch", graph="whole")
        with load(bundle) as session:
            assert tasks.for_bundle(bundle, session)(near(900)).deployment == "split"
        check_sweeps(model, bundle, "executorch", "split")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("graph", ["split", "whole"])
def test_other_sweeps_match_the_network(exported, runtime, graph):
    model, result = exported
    with Bundle.open(result.bundle) as bundle:
        check_sweeps(model, bundle, runtime, graph)


def test_all_ways_lead_to_the_same_boxes(exported):
    _, result = exported
    answers = []
    with Bundle.open(result.bundle) as bundle:
        for runtime in (*available(bundle), "auto"):
            for graph in (None, "split"):
                with load(bundle, runtime, graph=graph) as session:
                    answer = tasks.for_bundle(bundle, session)(near(5000))
                assert answer.deployment == (graph or "whole")
                assert answer.to_json()["deployment"] == answer.deployment
                assert answer.deployment in answer.describe().splitlines()[0]
                answers.append(answer)
    counts = {len(answer.detections) for answer in answers}
    assert max(counts) - min(counts) <= 2  # a score at the threshold may fall on either side
    for answer in answers:
        for one, other in zip(answer.detections[:5], answers[0].detections[:5], strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)


def test_a_sweep_beyond_the_ranges_is_refused_in_words(exported):
    _, result = exported
    with Bundle.open(result.bundle) as bundle, load(bundle, graph="split") as session:
        session.dynamic = {
            axis: limits.model_copy(update={"max": 5}) for axis, limits in session.dynamic.items()
        }
        task = tasks.for_bundle(bundle, session)
        with pytest.raises(InputError, match=r"900 points in \d+ voxels are too many"):
            task.prepare(near(900))


@pytest.mark.parametrize(
    ("name", "changed"),
    [("waymo-pillar", FEW), pytest.param("waymo-voxel", {}, marks=minutes)],
)
def test_tensorrt_compiles_split_with_dynamic_sizes_and_refuses_whole(name, changed, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    result = export(small_dsvt(name, **changed), ["tensorrt"], tmp_path / "b", report=False)
    (target,) = result.targets
    assert target.status == "ok", target.reason
    (graph,) = target.graphs
    assert (graph.name, graph.verify["level"]) == ("split", "compiled")
    with Bundle.open(result.bundle) as bundle:
        (artifact,) = bundle.graph("split").artifacts
        assert "NonZero" in artifact.details["because"]
        assert bundle.graph("split").dynamic["points_0"].min == 1


def test_a_real_sweep_is_a_sample(shared_data, tmp_path):
    sweep = shared_data / "data/lidar/kitti_000008.bin"
    model = small_dsvt("waymo-pillar", **FEW)
    result = export(model, ["onnx"], tmp_path / "b", samples=sweep, report=False)
    for graph in result.targets[0].graphs:
        assert graph.verify["samples"][-1] == sweep.name
        assert graph.verify["passed"]


def graph_of(name, **exit_codes):
    return Graph(
        name=name,
        inputs=(),
        outputs=(),
        artifacts=tuple(
            Artifact(
                target=target,
                status="failed" if code else "ok",
                exit_code=code,
                reason="because" if code else None,
            )
            for target, code in exit_codes.items()
        ),
    )


@pytest.mark.parametrize(
    ("whole", "split", "kept"),
    [
        (4, 0, ["split"]),
        (4, 4, ["split", "whole"]),
        (5, 0, ["split", "whole"]),
        (0, 0, ["split", "whole"]),
    ],
)
def test_only_a_refusal_that_has_an_alternative_is_settled(whole, split, kept, tmp_path):
    specs = (GraphSpec(name="split"), GraphSpec(name="whole", alternative="split"))
    graphs = [graph_of("split", onnx=split), graph_of("whole", onnx=whole)]
    said: list[str] = []
    settled = settle(specs, graphs, tmp_path, said.append)
    assert [graph.name for graph in settled if graph.artifacts] == kept
    assert len(said) == (kept == ["split"])
