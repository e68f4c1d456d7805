"""Weight-only quantisation on every target: real runtimes, real sizes, what is kept and refused."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")
pytest.importorskip("executorch")
pytest.importorskip("coremltools")
pytest.importorskip("nncf")
from torch import nn  # noqa: E402

from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.export.targets import TARGETS  # noqa: E402
from edgekit.manifest import Artifact, Graph  # noqa: E402
from edgekit.quant.plan import QuantPlan  # noqa: E402
from edgekit.runtimes import open_artifact  # noqa: E402

NODES = ("linear", "linear_1", "linear_2", "linear_3")
RUNNING = ("onnx", "openvino", "executorch")
ALL = (*RUNNING, "coreml")
# Of normal weights: 8 bits round to 1/127 of the largest of a row, 4 bits to 1/8 of a group's.
MOST = {8: 1e-3, 4: 4e-2}


class Linears(nn.Module):
    """Four linear layers, one of them without a bias, and a row that no group divides."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(256, 512)
        self.second = nn.Linear(512, 256, bias=False)
        self.third = nn.Linear(256, 100)
        self.last = nn.Linear(100, 64)

    def forward(self, x):
        hidden = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return self.last(torch.relu(hidden))


class Words(nn.Module):
    """An embedding before linear layers, whose weight the last layer shares."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 128)
        self.inner = nn.Linear(128, 128)
        self.head = nn.Linear(128, 1000, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(torch.relu(self.inner(self.table(words))))


def seeded(module):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for tensor in module.parameters():
            tensor.normal_(0, tensor.shape[-1] ** -0.5)
    return module.eval()


def rows(*shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.randn(shape)


@pytest.fixture(scope="module")
def linears(captured):
    """The linear layers over rank 2 (Gemm in ONNX) and over rank 3 (MatMul and Add)."""
    module, found = seeded(Linears()), {}
    for x in (rows(4, 256), rows(2, 7, 256)):
        found[x.dim()] = SimpleNamespace(
            program=captured(module, (x,)), x=x, wanted=module(x).detach().numpy(), module=module
        )
    return found


@pytest.fixture(scope="module")
def lower(tmp_path_factory):
    """``lower(target, net, plan)``: what became of it: ``run(x)``, ``bytes``, ``lowered``."""

    def make(target, net, plan=None):
        folder = tmp_path_factory.mktemp(target)
        target = TARGETS[target]()
        precision = plan.precision if plan else "fp32"
        if plan is None:
            lowered = target.lower(net.program, "fp32", folder)
        else:
            lowered = target.lower_quantised(net.program, plan, folder)
        files = SimpleNamespace(file=lambda rel: folder / rel, folder=lambda rel: folder / rel)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        artifact = Artifact(
            target=target.name,
            status="ok",
            file=lowered.file,
            extra=lowered.extra,
            bytes=size,
            precision=precision,
            effective_precision=lowered.effective_precision,
        )
        program = net.program
        graph = Graph(name="forward", inputs=program.inputs, outputs=program.outputs)

        def run(x):
            if target.name == "coreml":
                session = target.interpret(files, graph, artifact)
            elif target.name == "tensorrt":
                session = target.stand_in(files, graph, artifact)
            else:
                session = open_artifact(files, graph, artifact, 1)
            with session:
                return session.run({program.inputs[0].name: x.numpy()})[program.outputs[0].name]

        return SimpleNamespace(run=run, bytes=size, lowered=lowered, folder=folder)

    return make


def nmse(found, wanted):
    return float(((found - wanted) ** 2).sum() / (wanted**2).sum())


def plan_of(bits, group=32, kept=(), **more):
    return QuantPlan(scheme="weights", bits=bits, group_size=group, kept=kept, **more)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", ALL)
def test_integers_run_near_the_floating_point_network_and_are_small(
    lower, linears, target, bits, rank
):
    net = linears[rank]
    made = lower(target, net, plan_of(bits))
    found = nmse(made.run(net.x), net.wanted)
    assert MOST[bits] / 1000 < found < MOST[bits]  # not even near: nothing was quantised
    weights = sum(layer.numel() for layer in net.module.parameters())
    # A scale of 16 or 32 bits per group; what else there is takes a few thousand bytes.
    assert bits / 8 * weights < made.bytes < (bits + 1) / 8 * weights + 16000
    assert made.lowered.details["weights"]["bits"] == bits
    assert f"int{bits}" in made.lowered.effective_precision


@pytest.mark.parametrize("target", ALL)
def test_longer_groups_are_smaller_and_worse(lower, captured, target):
    """Over one wide layer, whose error is that of its many weights."""
    module, x = seeded(nn.Linear(512, 512)), rows(16, 512)
    net = SimpleNamespace(program=captured(module, (x,)), x=x, wanted=module(x).detach().numpy())
    made = [lower(target, net, plan_of(4, group)) for group in (32, 64, 128)]
    errors = [nmse(each.run(net.x), net.wanted) for each in made]
    sizes = [each.bytes for each in made]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert 0.005 < errors[0] < 0.95 * errors[1] < 0.9 * errors[2] < 0.015


def holds(folder, weight, dtype):
    """Whether the artifact has a matrix in floating point, bit for bit, either way around."""
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    array = weight.detach().numpy().astype(dtype)
    return any(np.ascontiguousarray(each).tobytes() in content for each in (array, array.T))


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("target", ALL)
def test_kept_layers_stay_as_they_were_bit_for_bit(lower, linears, target, rank):
    """Also the last layer, whose value is called as the contract says."""
    net = linears[rank]
    nodes = dict(zip(("first", "second", "third", "last"), NODES, strict=True))
    for kept in (("first", "last"), ("second",)):
        made = lower(target, net, plan_of(4, kept=tuple(nodes[name] for name in kept)))
        floats = {
            name
            for name in nodes
            if holds(
                made.folder,
                getattr(net.module, name).weight,
                "float16" if target == "coreml" else "float32",
            )
        }
        assert floats == set(kept)
        assert nmse(made.run(net.x), net.wanted) < MOST[4]


@pytest.mark.parametrize("target", ALL)
def test_keeping_all_is_no_quantisation(linears, target, tmp_path):
    with pytest.raises(UnsupportedError, match="no weights to"):
        TARGETS[target]().lower_quantised(linears[2].program, plan_of(4, kept=NODES), tmp_path)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml"])
def test_embeddings_are_integers_too(lower, captured, target, bits):
    module, words = seeded(Words()), torch.randint(0, 1000, (3, 5))
    wanted = module(words).detach().numpy()
    net = SimpleNamespace(program=captured(module, (words,)), x=words, wanted=wanted)
    made = lower(target, net, plan_of(bits))
    assert MOST[bits] / 1000 < nmse(made.run(words), wanted) < MOST[bits]
    assert not holds(made.folder, module.table.weight, "float32")
    assert not holds(made.folder, module.table.weight, "float16")
    # The table twice at most: as rows to look up and as a matrix to multiply by.
    assert made.bytes < 2 * (bits + 1) / 8 * module.table.weight.numel() + 40000


@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml"])
def test_a_kept_embedding_stays_as_it_was(lower, captured, target):
    module, words = seeded(Words()), torch.randint(0, 1000, (3, 5))
    net = SimpleNamespace(program=captured(module, (words,)), x=words)
    made = lower(target, net, plan_of(4, kept=("embedding",)))
    kind = "float16" if target == "coreml" else "float32"
    assert holds(made.folder, module.table.weight, kind)
    assert not holds(made.folder, module.inner.weight, kind)


def test_executorch_says_what_it_rounds_besides_and_what_it_leaves(lower, captured):
    module, words = seeded(Words()), torch.randint(0, 1000, (3, 5))
    wanted = module(words).detach().numpy()
    net = SimpleNamespace(program=captured(module, (words,)), x=words, wanted=wanted)
    made = lower("executorch", net, plan_of(4))
    assert nmse(made.run(words), wanted) < MOST[4]
    assert holds(made.folder, module.table.weight, "float32")
    (note,) = made.lowered.notes
    assert "rounded to int8" in note
    assert made.lowered.details["weights"]["layers"] == {"int4": 2}
    assert made.lowered.details["partitions"] == 1


@pytest.mark.parametrize("target", RUNNING)
def test_dynamic_axes_stay_dynamic(lower, captured, target):
    module, x = seeded(Linears()), rows(2, 7, 256)
    limits = {"x": {0: (1, 4), 1: (1, 64)}}
    net = SimpleNamespace(program=captured(module, (x,), limits))
    made = lower(target, net, plan_of(4))
    for shape in ((1, 1, 256), (4, 64, 256)):
        other = rows(*shape)
        assert nmse(made.run(other), module(other).detach().numpy()) < MOST[4]


def test_tables_of_values_are_core_mls(lower, linears, tmp_path):
    net = linears[2]
    for bits in (8, 4):
        made = lower("coreml", net, plan_of(bits, weight_format="palettized"))
        assert nmse(made.run(net.x), net.wanted) < MOST[bits]
        assert "constexpr_lut_to_dense" in made.lowered.operators
    plan = plan_of(4, weight_format="palettized")
    for target in RUNNING:
        with pytest.raises(UnsupportedError, match="palettized"):
            TARGETS[target]().lower_quantised(net.program, plan, tmp_path)


@pytest.fixture(scope="module")
def convolutional(captured):
    module = seeded(
        nn.Sequential(
            nn.Conv2d(3, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, groups=64),
            nn.Conv2d(64, 96, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(96, 5),
        )
    )
    x = rows(1, 3, 16, 16)
    return SimpleNamespace(
        program=captured(module, (x,)), x=x, wanted=module(x).detach().numpy(), module=module
    )


@pytest.mark.parametrize("target", RUNNING)
def test_convolutional_networks_are_refused_in_one_line(convolutional, target, tmp_path):
    with pytest.raises(UnsupportedError) as caught:
        TARGETS[target]().lower_quantised(convolutional.program, plan_of(4), tmp_path)
    assert caught.value.exit_code == 4
    assert "linear layers only" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [8, 4])
def test_core_ml_compresses_convolutions(lower, convolutional, bits):
    made = lower("coreml", convolutional, plan_of(bits))
    plain = lower("coreml", convolutional)
    assert nmse(made.run(convolutional.x), convolutional.wanted) < MOST[bits]
    weight = convolutional.module[3].weight
    assert not holds(made.folder, weight, "float16")
    assert plain.bytes - made.bytes > (4 - bits / 8 - 0.2) * weight.numel()


def test_openvino_stores_convolutions_in_8_bits(lower, convolutional):
    made = lower("openvino", convolutional, plan_of(8))
    assert nmse(made.run(convolutional.x), convolutional.wanted) < MOST[8]
    assert not holds(made.folder, convolutional.module[3].weight, "float32")


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("bits", [8, 4])
def test_tensorrt_compiles_dequantised_integers(lower, linears, bits, rank):
    """What it compiled is ONNX: ONNX Runtime computes the same graph."""
    pytest.importorskip("tensorrt_rtx")
    net = linears[rank]
    made = lower("tensorrt", net, plan_of(bits, kept=("linear_1",)))
    assert MOST[bits] / 1000 < nmse(made.run(net.x), net.wanted) < MOST[bits]
    assert made.lowered.operators["DequantizeLinear"] == 2  # 16 does not divide the last row
    assert not holds(made.folder, net.module.first.weight, "float16")
    assert holds(made.folder, net.module.second.weight, "float16")
    assert holds(made.folder, net.module.last.weight, "float16")
    size = (made.folder / "model.onnx").stat().st_size
    integers = net.module.first.weight.numel() + net.module.third.weight.numel()
    floats = 2 * (net.module.second.weight.numel() + net.module.last.weight.numel())
    assert size - floats < integers * (bits / 8 + 2 / 32) + 12000
    (engine,) = made.lowered.details["engines"]
    assert (made.folder / engine["file"]).stat().st_size > 1000


def test_an_embedding_that_the_group_does_not_divide_has_shorter_ones(lower, captured):
    module = seeded(nn.Sequential(nn.Embedding(500, 96), nn.Linear(96, 32)))
    words = torch.randint(0, 500, (2, 5))
    wanted = module(words).detach().numpy()
    net = SimpleNamespace(program=captured(module, (words,)), x=words, wanted=wanted)
    made = lower("onnx", net, plan_of(4, 128))
    assert nmse(made.run(words), wanted) < MOST[4]
    assert made.lowered.operators["GatherBlockQuantized"] == 1
    assert made.bytes < 500 * 96 * 0.5 + 500 * 3 * 4 + 8000
