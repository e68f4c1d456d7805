"""Moshi 7B's graphs at full width: do they read the bytes that ``edgekit plan`` says?

Run: ``python tests/bench/bench_moshi_bytes.py [--layers N] [--precision int4] [--graph NAME]``.
Exports the temporal and the depth graph with the temporal layers cut to what fits here (2; it takes
12 GB), seeded weights, to ONNX Runtime. Measured is what a frame has to read of the emitted file:
every constant but the tables that rows are gathered from, and of the state the rings. The limit is
5 % from the formula; NMSE and how many tokens are the same are printed beside it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

LIMIT = 0.05
GATHERS = ("Gather", "GatherBlockQuantized")


def model(layers: int, number: int):
    """One of the language model's two graphs, with seeded weights."""
    import torch

    from edgekit.manifest import TaskInfo
    from edgekit.models.moshi.build import Moshi
    from edgekit.models.moshi.config import configs
    from edgekit.models.moshi.entries import DIALOGUE_KIND, dialogue_params, language_graphs
    from edgekit.models.moshi.language import LanguageModel
    from edgekit.models.spec import LoadedModel

    config, _ = configs("moshi-7b", layers)
    torch.manual_seed(0)
    return config, LoadedModel(
        name="moshi-cut",
        source="moshi-7b",
        module=Moshi(None, LanguageModel(config)).eval(),
        graphs=(language_graphs(config)[number],),
        weights="random (seed 0)",
        task=TaskInfo(kind=DIALOGUE_KIND, params=dialogue_params(config, None)),
    )


def constants_read(path: Path) -> int:
    """Bytes of an ONNX file's constants that every run reads whole."""
    import onnx_ir as ir

    graph = ir.load(path).graph
    read = set()
    for node in graph:
        skipped = node.inputs[:1] if node.op_type in GATHERS else ()
        if node.op_type == "GatherBlockQuantized":
            skipped = (node.inputs[0], *node.inputs[2:])
        read |= {value.name for value in node.inputs if value and value not in skipped}
    return sum(
        value.const_value.nbytes for name, value in graph.initializers.items() if name in read
    )


def rings_read(graph) -> int:
    """Bytes of the state that are read as a whole: what is given back in parts."""
    import math

    rings = {pair.input for pair in graph.states if pair.ring_axis is not None}
    return sum(4 * math.prod(spec.shape) for spec in graph.inputs if spec.name in rings)


def measure(folder: Path, layers: int, precision: str, number: int) -> tuple[int, float, str]:
    """Bytes measured, bytes by the formula, and how true the graph is, in words."""
    from edgekit.bundle import Bundle
    from edgekit.export import export
    from edgekit.models.moshi import plan
    from edgekit.quant.options import QuantOptions

    config, loaded = model(layers, number)
    floating = precision not in plan.GROUP
    asked = None if floating else QuantOptions(scheme="weights", compare=())
    made = export(loaded, ["onnx"], folder, precision=precision, quantisation=asked, report=False)
    made.raise_for_status()
    each = plan.weight_bits(precision, "onnx") / 8
    with Bundle.open(folder) as bundle:
        (graph,) = bundle.manifest.graphs
        (artifact,) = graph.artifacts
        found = constants_read(folder / artifact.file) + rings_read(graph)
        quality = artifact.quantisation.fidelity if artifact.quantisation else None
    if number == 0:
        ring = plan.ring_bytes(config.temporal, "fp32")
        wanted = plan.temporal_weights(config) * each + ring
    else:
        wanted = plan.depth_weights(config) * each
    said = f"NMSE {quality.nmse:.1e}, {quality.agreement:.1f} % the same" if quality else ""
    return found, wanted, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--graph", choices=("temporal", "depformer"), help="default: both")
    options = parser.parse_args()
    names = ("temporal", "depformer")
    worst = 0.0
    for number, name in enumerate(names):
        if options.graph not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found, wanted, said = measure(
                Path(folder) / "b", options.layers, options.precision, number
            )
        away = found / wanted - 1
        worst = max(worst, abs(away))
        print(f"{name:10} measured {found:>13,}  plan {wanted:>15,.0f}  {away:+.2%}  {said}")
    met = worst <= LIMIT
    print(f"moshi-7b, {options.precision}: {worst:.2%} from the plan; {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
