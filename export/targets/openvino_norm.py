"""Group norm in OpenVINO's own layout: over the map as it lies, not over a flat copy."""

from __future__ import annotations

from typing import Any

import numpy as np

# ONNX has instance norm only, so that a norm over all channels is written as one over a map
# of one channel and one row: view as (N, 1, C*H*W), normalise the last axis, view back.
_FLAT = [0, 1, -1]
_RANK = 4


def normalize_in_place(model: Any) -> int:
    """Let norms over all of a map read the map itself; returns how many were changed.

    OpenVINO keeps maps with channels last. A view as one row needs them with channels first,
    so the plugin turns the map before each norm and back after it, and keeps what scales and
    shifts the result outside the norm's kernel.

    Rules:
        1. Reshape(x, [0, 1, -1]) -> MVN over the last axis -> Reshape to x's shape, for x of
           (N, C, H, W), becomes MVN over the last three axes of x.

    Must not touch several groups (another view), a view or a norm with a second user, and a
    last view that is not known to restore x's shape (neither read off x, nor in numbers).
    The result keeps the name of the last view, which is what the verifier looks for.

    Args:
        model: an ``openvino.Model``, changed in place.
    """
    changed = 0
    for norm in model.get_ordered_ops():
        if norm.get_type_name() != "MVN":
            continue
        view = norm.input_value(0).get_node()
        back = _only_user(norm)
        over = _constant(norm.input_value(1))
        if back is not None and over == [2] and _is_flat(view) and _restores(back, view):
            _replace(norm, view.input_value(0), back)
            changed += 1
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def _only_user(node: Any) -> Any:
    users = node.output(0).get_target_inputs()
    return next(iter(users)).get_node() if len(users) == 1 else None


def _constant(output: Any) -> list[int] | None:
    node = output.get_node()
    if node.get_type_name() != "Constant":
        return None
    return [int(value) for value in np.ravel(node.data)]


def _is_flat(view: Any) -> bool:
    """Whether ``view`` gives a map (N, C, H, W) as (N, 1, C*H*W), to one user."""
    return (
        view.get_type_name() == "Reshape"
        and len(view.output(0).get_target_inputs()) == 1
        and view.input_value(0).get_partial_shape().rank == _RANK
        and view.get_attributes()["special_zero"]
        and _constant(view.input_value(1)) == _FLAT
    )


def _restores(back: Any, view: Any) -> bool:
    """Whether ``back`` views the result in the shape that the map had."""
    if back.get_type_name() != "Reshape":
        return False
    source, shape = view.input_value(0), back.input_value(1)
    if shape.get_node().get_type_name() == "ShapeOf":
        return shape.get_node().input_value(0) == source
    before, after = source.get_partial_shape(), back.get_output_partial_shape(0)
    # Of equal numbers of elements, so one axis without a number follows from the others.
    return before == after and sum(axis.is_dynamic for axis in before) <= 1


def _replace(norm: Any, source: Any, back: Any) -> None:
    from openvino import opset15 as ops

    attributes = norm.get_attributes()
    axes = ops.constant(np.array([1, 2, 3], np.int64))
    mode = str(attributes["eps_mode"]).lower()
    new = ops.mvn(source, axes, attributes["normalize_variance"], attributes["eps"], mode)
    new.set_friendly_name(back.get_friendly_name())
    names = back.output(0).get_names()
    for target in back.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))
    new.output(0).get_tensor().set_names(names)
