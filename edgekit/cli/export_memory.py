"""What an export says of a device's memory: the plan of each recipe, beside what is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.output import size

if TYPE_CHECKING:
    from edgekit.devices.profiles import Profile

SHARE_OF_MEMORY = 0.85  # the rest is the system's


def memory_on(bundle: Path, profile: "Profile") -> list[dict[str, Any]]:
    """The plans that a bundle's recipes hold, each with its share of the device's memory."""
    from edgekit.bundle import Bundle

    with Bundle.open(bundle) as opened:
        plans = [
            (graph.name, artifact.target, artifact.details["memory"])
            for graph in opened.manifest.graphs
            for artifact in graph.artifacts
            if artifact.status == "ok" and "memory" in artifact.details
        ]
    return [
        {
            "graph": graph,
            "target": target,
            **plan,
            "device_bytes": profile.memory_bytes,
            "share": round(plan["total_bytes"] / profile.memory_bytes, 4),
            "fits": plan["total_bytes"] <= SHARE_OF_MEMORY * profile.memory_bytes,
        }
        for graph, target, plan in plans
    ]


def in_words(row: dict[str, Any]) -> str:
    """One plan in a line."""
    parts = ", ".join(
        f"{size(row[f'{key}_bytes'])} {key}" for key in ("weights", "values", "inputs")
    )
    verdict = "fits" if row["fits"] else "does NOT fit"
    return (
        f"{row['graph']} on {row['target']} asks for up to {size(row['total_bytes'])} ({parts}) "
        f"and the engine's work space; {row['share']:.1%} of {size(row['device_bytes'])}: {verdict}"
    )
