"""Is a package here? If not: what to install."""

from __future__ import annotations

from importlib.util import find_spec

from edgekit.errors import MissingBackendError

DISTRIBUTION = "edgekit-toolkit"


def need(module: str, extra: str, what: str) -> None:
    """Raise MissingBackendError naming the extra to install if ``module`` is absent."""
    if find_spec(module.partition(".")[0]) is None:
        package = f'"{DISTRIBUTION}[{extra}]"' if extra else DISTRIBUTION
        raise MissingBackendError(
            f"{what} is not installed", f"no module {module}", f"pip install {package}"
        )
