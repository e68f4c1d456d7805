"""Looking into a program of the common graph, and running it."""

import copy
import functools

import pytest
import torch
from torch import nn

PICTURE = (2, 4, 7, 7)


def operators(program) -> list:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def weights(program) -> list[str]:
    return sorted(str(spec.target) for spec in program.graph_signature.input_specs if spec.target)


def values(program, *inputs):
    with torch.no_grad():
        found = program.module()(*inputs)
    return found if isinstance(found, tuple | list) else (found,)


def assert_same(program, module, *inputs):
    """The program against the module in double precision."""
    exact = copy.deepcopy(module).double()
    with torch.no_grad():
        wanted = exact(*(x.double() if x.is_floating_point() else x for x in inputs))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for value, expected in zip(values(program, *inputs), wanted, strict=True):
        assert_close(value, expected)


def assert_close(value, expected):
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= 1e-5 * expected.abs().max()


class Normalised(nn.Module):
    """A layer and the batch norm after it."""

    def __init__(self, layer, norm):
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x):
        return torch.relu(self.norm(self.layer(x)))


def remember_translations(patch: pytest.MonkeyPatch) -> None:
    """Let the ONNX exporter read its table of translations once, not for every conversion:
    a second of each."""
    try:
        from onnxscript._framework_apis import torch_2_5

        patch.setattr(torch_2_5, "get_torchlib_ops", functools.cache(torch_2_5.get_torchlib_ops))
    except (ImportError, AttributeError):
        return  # another onnxscript: slower, and all the same
