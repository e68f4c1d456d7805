"""How much each layer loses by int8: one at a time, on the common graph.

A layer is quantised in simulation: its weights per output channel, symmetric; its input per
tensor, within the range that the calibration samples show. All else stays in fp32. What that
adds to the outputs is the layer's error, and layers are ranked by it. No runtime takes part,
so one ranking serves every target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Interpreter, Node

from ..quant.plan import Arrays, QuantPlan
from .layers import Layer, rounded_weight, weight_layers, weight_of
from .passes.surgery import constant_of
from .program import Program

SAMPLES = 8  # shown to each variant: the ranking settles soon, and time is a run for each layer

Advance = Callable[[], None]


@dataclass(frozen=True)
class Sensitivity:
    """One layer, and the NMSE of the graph's outputs when it alone is quantised."""

    layer: Layer
    nmse: float


def rank_layers(
    program: Program,
    plan: QuantPlan,
    samples: Sequence[Arrays],
    advance: Advance = lambda: None,
) -> tuple[Sensitivity, ...]:
    """All layers, the most sensitive first.

    Args:
        plan: its bits, its scheme (``weights`` leaves inputs alone) and its group size count.
        samples: inputs by name; the first few are shown.
        advance: called once a layer.
    """
    simulation = Simulation(program, plan, samples[:SAMPLES])
    found = []
    for layer in weight_layers(program):
        found.append(Sensitivity(layer, simulation.nmse({layer.node})))
        advance()
    # Equal errors (a layer of zeros) keep the graph's order, so that the ranking is one.
    return tuple(sorted(found, key=lambda one: -one.nmse))


class Simulation:
    """Runs the common graph with some of its layers quantised.

    Args:
        samples: inputs by name; ranges are those that they show, and errors are over them.
    """

    def __init__(self, program: Program, plan: QuantPlan, samples: Sequence[Arrays]) -> None:
        self._program, self._plan = program, plan
        self._constants = constant_of(program.exported)
        self._rounded: dict[str, torch.Tensor] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._samples = [
            {name: torch.from_numpy(array) for name, array in sample.items()} for sample in samples
        ]
        self._expected = [self._run(sample, (), observe=True) for sample in self._samples]

    def nmse(self, layers: Collection[str]) -> float:
        """Of the outputs with these layers (by node) quantised; the worst output counts."""
        errors = [0.0] * len(self._program.outputs)
        powers = [0.0] * len(self._program.outputs)
        for sample, expected in zip(self._samples, self._expected, strict=True):
            outputs = self._run(sample, layers)
            for index, (got, wanted) in enumerate(zip(outputs, expected, strict=True)):
                errors[index] += float((got.double() - wanted.double()).square().sum())
                powers[index] += float(wanted.double().square().sum())
        return max(_ratio(e, p) for e, p in zip(errors, powers, strict=True))

    def _run(
        self, sample: Mapping[str, torch.Tensor], layers: Collection[str], observe: bool = False
    ) -> tuple[torch.Tensor, ...]:
        runner = _Runner(self, layers, observe)
        arguments = [
            self._constants[node.name] if node.name in self._constants else sample[node.name]
            for node in self._program.exported.graph.find_nodes(op="placeholder")
        ]
        with torch.no_grad():
            return tuple(runner.run(*arguments))

    def observe(self, name: str, value: torch.Tensor) -> None:
        """Widen the range of a layer's input."""
        low, high = self._ranges.get(name, (0.0, 0.0))
        self._ranges[name] = min(low, float(value.min())), max(high, float(value.max()))

    def rounded_input(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A layer's input on the 256 levels of its range; as it is where inputs are floats."""
        if self._plan.scheme == "weights":
            return value
        low, high = self._ranges[name]
        scale = max((high - low) / 255, 1e-12)
        zero = round(-low / scale)
        return (torch.clamp(torch.round(value / scale) + zero, 0, 255) - zero) * scale

    def rounded_weight(self, node: Node) -> torch.Tensor:
        """A layer's weight on the levels of its channels (or groups)."""
        if node.name not in self._rounded:
            weight = self._constants[weight_of(node).name]
            self._rounded[node.name] = rounded_weight(node, weight, self._plan)
        return self._rounded[node.name]


class _Runner(Interpreter):
    def __init__(self, simulation: Simulation, layers: Collection[str], observe: bool) -> None:
        super().__init__(simulation._program.exported.graph_module)
        self._simulation, self._layers, self._observe = simulation, layers, observe

    def run_node(self, node: Node) -> Any:
        weight = weight_of(node)
        known = weight is not None and weight.name in self._simulation._constants
        if not known or not (self._observe or node.name in self._layers):
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        args, position = list(args), node.args.index(weight)
        # The input is the tensor before the weight: addmm has its bias first.
        if self._observe:
            self._simulation.observe(node.name, args[position - 1])
        else:
            args[position - 1] = self._simulation.rounded_input(node.name, args[position - 1])
            args[position] = self._simulation.rounded_weight(node)
        return node.target(*args, **kwargs)


def _ratio(error: float, power: float) -> float:
    if not math.isfinite(error):
        return math.inf
    if power == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return error / power
