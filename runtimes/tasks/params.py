"""The parameters of a task, as the manifest has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgekit.bundle import Bundle
from edgekit.errors import BundleError

Params = TypeVar("Params", bound=BaseModel)


def parse_params(bundle: Bundle, model: type[Params]) -> Params:
    """A task's parameters in the manifest.

    Raises:
        BundleError: they make no sense.
    """
    return check_params(bundle.manifest.task.params, model, str(bundle.path))


def check_params(params: Mapping[str, Any], model: type[Params], name: str) -> Params:
    """A task's parameters, also of a bundle that is being made.

    Raises:
        BundleError: they make no sense.
    """
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else first["msg"]
        raise BundleError(f"the task of {name} makes no sense", why) from error
