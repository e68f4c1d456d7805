"""The parameters of a task, as the manifest has them."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgekit.bundle import Bundle
from edgekit.errors import BundleError

Params = TypeVar("Params", bound=BaseModel)


def parse_params(bundle: Bundle, model: type[Params]) -> Params:
    """A task's parameters in the manifest.

    Raises:
        BundleError: they make no sense.
    """
    try:
        return model.model_validate(bundle.manifest.task.params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"the task of {bundle.path} makes no sense", f"{where}: {first['msg']}"
        ) from error
