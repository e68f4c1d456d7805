"""A device profile as a TOML file that :func:`edgekit.devices.profiles.read` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .profiles import Profile


def to_toml(profile: Profile, comment: str = "") -> str:
    """The file's text. What a profile leaves out (None, an empty list) is left out.

    Args:
        comment: one line at the top.
    """
    plain = profile.model_dump(mode="json")
    lines = [f"# {comment}", ""] if comment else []
    return "\n".join([*lines, *_table(plain, ())]) + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The lines of a table: its values first, since TOML ends it where the next one begins."""
    kept = {key: value for key, value in table.items() if value not in (None, [], {})}
    nested = {key: value for key, value in kept.items() if _is_table(value)}
    for key, value in kept.items():
        if key not in nested:
            yield f"{key} = {_value(value)}"
    for key, value in nested.items():
        name = ".".join((*path, key))
        for one in value if isinstance(value, list) else [value]:
            yield ""
            yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            yield from _table(one, (*path, key))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    # A JSON string is a TOML string but for one character, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
