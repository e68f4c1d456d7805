"""What the targets share of quantisation: who is refused it, and what kept layers are called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from edgekit.errors import UnsupportedError

from ...quant.plan import QuantPlan
from ..layers import convolutional_share, linear_share, weight_of
from ..passes.surgery import constant_of
from ..program import Program

#: Below this share of its weights in linear layers, a network gains nothing that is worth it.
LEAST_SHARE = 0.1

#: With more of its layers than this share, a network is one of convolutions.
MOST_CONVOLUTIONS = 0.25


def refuse_convolutional(target: str, program: Program, plan: QuantPlan) -> None:
    """Refuse a network whose weights this way of storing them would leave as they are.

    Raises:
        UnsupportedError: (almost) no weights are in linear layers.
    """
    share = linear_share(program)
    if share < LEAST_SHARE:
        raise UnsupportedError(
            f"{target} stores weights as {plan.precision} in linear layers only",
            f"they hold {share:.0%} of this network's weights, the rest is convolutions",
            "use static int8 (--calib), or --target coreml",
        )


def refuse_palettes(target: str, plan: QuantPlan) -> None:
    """Refuse a table of values where the runtime has evenly spaced levels only.

    Raises:
        UnsupportedError: the plan's weights are palettized.
    """
    if plan.weight_format == "palettized":
        raise UnsupportedError(
            f"{target} does not take palettized weights",
            "its levels are evenly spaced",
            "leave the weight format linear, or use --target coreml",
        )


def refuse_dynamic(program: Program, plan: QuantPlan) -> None:
    """Refuse to find ranges while running where convolutions would have to.

    Raises:
        UnsupportedError: the plan is dynamic and the network is one of convolutions.
    """
    share = convolutional_share(program)
    if plan.scheme == "dynamic" and share > MOST_CONVOLUTIONS:
        raise UnsupportedError(
            "dynamic int8 is refused for a network of convolutions",
            f"{share:.0%} of its layers are, and finding the range of each map while running makes "
            "it many times slower",
            "use static int8: give --calib",
        )


def kept_values(program: Program, plan: QuantPlan) -> QuantPlan:
    """The plan with the names that the kept nodes' values have in what a target emits.

    Those are the nodes' own, but for an output, which the contract names.
    """
    results = program.exported.graph_signature.user_outputs
    outputs = dict(zip(results, (spec.name for spec in program.outputs), strict=True))
    return replace(plan, kept=tuple(outputs.get(name, name) for name in plan.kept))


def kept_weights(program: Program, plan: QuantPlan) -> list[np.ndarray]:
    """The weights of the kept nodes, embeddings' too."""
    constants = constant_of(program.exported)
    found = []
    for node in program.exported.graph.nodes:
        if node.name not in plan.kept:
            continue
        weight = weight_of(node)
        if node.target is torch.ops.aten.embedding.default:
            weight = node.args[0]
        if weight is not None and weight.name in constants:
            found.append(constants[weight.name].detach().numpy())
    return found
