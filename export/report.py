"""The report of a bundle: one HTML file that shows what was exported and how well it was proved.

The page needs nothing but itself: no script, no font, no picture from elsewhere, and a
content security policy that forbids them. It depends on the manifest and the measurements
only, so the same ones give the same bytes.

This module turns records into views (plain values, ready to print); ``report_charts`` says
where marks go, ``report_words`` what things are called, and ``report.html.j2`` draws.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from edgekit.errors import MissingBackendError
from edgekit.manifest import TARGETS, Artifact, Graph, Manifest

from . import report_accuracy, report_precisions, report_timings
from . import report_charts as charts
from . import report_words as words

if TYPE_CHECKING:
    import jinja2

#: Operators shown per artifact before "and n more".
TOP_OPERATORS: Final = 15

_METRICS: Final = ("nmse", "rel_range", "max_abs", "cosine")
_SIZE_NOTES: Final = {"ok": "", "failed": "rejected", "unavailable": "unavailable"}
_KNOWN_DETAILS: Final = frozenset(
    {"delegated_share", "delegated", "total", "undelegated", "engines", "recipe"}
)

# Characters that would break the markup's text or turn its direction: a name is shown, it
# does not act. Lone surrogates cannot be written as UTF-8 at all.
_UNSAFE: Final = dict.fromkeys(
    [
        *(c for c in range(0x20) if c not in (0x09, 0x0A)),
        *range(0x7F, 0xA0),
        *range(0x200E, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    ],
    "\N{REPLACEMENT CHARACTER}",
)


def render(
    manifest: Manifest,
    measurements: Sequence[Mapping[str, Any]],
    precisions: Mapping[str, Any] | None = None,
) -> str:
    """The report as one self-contained HTML document.

    Args:
        manifest: of the bundle. measurements: rows as ``edgekit bench --json`` prints them
            (times in milliseconds, memory in MB), each with its ``host``; may be empty.
            A figure that a row lacks is shown as a dash.
        precisions: timings of a quantised network beside its other precisions.

    Returns:
        HTML text, to be written as UTF-8. The same arguments give the same text.

    Raises:
        MissingBackendError: jinja2 is not installed.
    """
    environment = _environment()
    style = environment.get_template("report.css.j2").render()
    page = environment.get_template("report.html.j2")
    quantised = report_precisions.precisions(manifest, precisions)
    return page.render(
        policy=_policy(style), quantised=quantised, **_context(manifest, measurements)
    )


@functools.cache
def _environment() -> jinja2.Environment:
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as missing:
        raise MissingBackendError(
            "the report cannot be drawn", str(missing), "pip install 'edgekit-toolkit[export]'"
        ) from missing

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else str(value).translate(_UNSAFE)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pieces"] = words.pieces
    return environment


def _policy(style: str) -> str:
    """A content security policy that allows this style sheet, by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _context(manifest: Manifest, measurements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cards = [_card(manifest, target) for target in _targets(manifest)]
    made = {card["target"] for card in cards}
    params = manifest.model.parameters
    return {
        "model": manifest.model,
        "random": manifest.model.weights.lower().startswith("random"),
        "facts": _facts(manifest),
        "task": manifest.task,
        "task_params": words.plain(manifest.task.params) if manifest.task.params else "",
        "drift_allowed": manifest.drift_allowed,
        "cards": cards,
        "headline": _headline(cards),
        "not_asked": [words.TARGET_NAMES[t] for t in TARGETS if t not in made],
        "limits": _limits(cards),
        "parity": charts.parity_plot(_parity_entries(manifest)),
        "parity_rows": [_parity_row(g, a, manifest) for g, a in _artifacts(manifest)],
        "accuracy": report_accuracy.accuracy(manifest),
        "sizes": _sizes(manifest),
        "total": words.size(sum(f.bytes for f in manifest.files)),
        "weights_size": words.size(4 * params) if params else "",
        "hosts": report_timings.hosts(measurements),
        "graphs": [_graph(g, manifest) for g in manifest.graphs],
        "many": len(manifest.graphs) > 1,
        "files": [(f.path, f"{f.bytes:,}", f.sha256) for f in manifest.files],
        "tools": sorted(manifest.tools.items()),
        "edgekit": manifest.edgekit,
        "schema_version": manifest.schema_version,
    }


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    model = manifest.model
    facts = [("Task", manifest.task.kind), ("Precision", manifest.precision)]
    if model.parameters:
        facts.append(("Parameters", words.count(model.parameters)))
    if model.macs:
        facts.append(("Multiply-adds", words.count(model.macs)))
    facts.append(("Weights", model.weights))
    if model.paper:
        facts.append(("Paper", model.paper))
    if model.licence:
        facts.append(("Licence", model.licence))
    if model.source != model.name:
        facts.append(("Source", model.source))
    return facts


def _artifacts(manifest: Manifest) -> list[tuple[Graph, Artifact]]:
    """Every artifact with its graph, in the targets' own order within a graph."""
    order = _targets(manifest)
    return [
        (graph, artifact)
        for graph in manifest.graphs
        for artifact in sorted(graph.artifacts, key=lambda a: order.index(a.target))
    ]


def _targets(manifest: Manifest) -> list[str]:
    """The targets of the manifest, known ones first and in their usual order."""
    present = dict.fromkeys(a.target for g in manifest.graphs for a in g.artifacts)
    return [t for t in TARGETS if t in present] + [t for t in present if t not in TARGETS]


def _target_name(target: str) -> str:
    return words.TARGET_NAMES.get(target, target)


def _card(manifest: Manifest, target: str) -> dict[str, Any]:
    """One target over all graphs: the verdict of its worst graph, and each graph's own."""
    parts = [(g, a) for g, a in _artifacts(manifest) if a.target == target]
    verdicts = [words.judge(a) for _, a in parts]
    nmse = [a.verify.metrics.nmse for _, a in parts if a.verify and a.verify.metrics]
    total = sum(a.bytes for _, a in parts)
    missing = len(manifest.graphs) - len({g.name for g, _ in parts})
    return {
        "target": target,
        "name": _target_name(target),
        "verdict": words.worst_verdict(verdicts),
        "nmse": words.distance(max(nmse)) if nmse else "",
        "size": words.size(total) if total else "",
        "precisions": list(dict.fromkeys(_precision(a) for _, a in parts)),
        "graphs": [(g.name, v) for (g, _), v in zip(parts, verdicts, strict=True)],
        "missing": missing,
        "reasons": list(dict.fromkeys(_reason(a) for _, a in parts if a.reason or a.exit_code)),
        "notes": list(dict.fromkeys(n for _, a in parts if a.verify for n in a.verify.notes)),
        "levels": list(dict.fromkeys(a.verify.level for _, a in parts if a.verify)),
    }


def _precision(artifact: Artifact) -> str:
    asked, used = artifact.precision, artifact.effective_precision
    return f"{asked} asked, {used} used" if used and used != asked else used or asked


def _reason(artifact: Artifact) -> str:
    meaning = words.EXIT_MEANINGS.get(artifact.exit_code, "")
    code = f"exit {artifact.exit_code}, {meaning}" if meaning else ""
    return f"{artifact.reason} ({code})" if artifact.reason and code else artifact.reason or code


def _headline(cards: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What happened in a few short sentences, the worst first: (tone, sentence)."""

    def named(tone: str) -> list[str]:
        return [card["name"] for card in cards if card["verdict"].tone == tone]

    said = {
        "failed": "failed",
        "drift": "drifted beyond the limits and kept",
        "unchecked": "made but not checked",
        "proven": "ran here, outputs within their limits of PyTorch's",
        "partial": "made but not run on {its} own runtime here",
        "off": "unavailable here",
    }
    lines = []
    for tone, phrase in said.items():
        names = named(tone)
        if names:
            phrase = phrase.format(its="its" if len(names) == 1 else "their")
            lines.append((tone, f"{words.joined(names)}: {phrase}."))
    return lines


def _limits(cards: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What the checks leave open: (targets, sentences); nothing for what was not made."""
    by_limit: dict[str, list[str]] = {}
    notes = []
    for card in cards:
        if card["verdict"].tone not in ("failed", "off"):
            said = [words.LEVELS[level].limit for level in card["levels"]]
            for text in said or ["Nothing was compared."]:
                by_limit.setdefault(text, []).append(card["name"])
        if card["notes"]:
            notes.append((f"Notes on {card['name']}", card["notes"]))
    return [(words.joined(names), [text]) for text, names in by_limit.items()] + notes


def _parity_entries(manifest: Manifest) -> list[charts.ParityEntry]:
    many = len(manifest.graphs) > 1
    entries = []
    for graph, artifact in _artifacts(manifest):
        check = artifact.verify
        verdict = words.judge(artifact)
        if artifact.status == "ok" and check:
            absent = words.LEVELS[check.level].short
        else:
            absent = f"{verdict.word}: nothing compared"
        entries.append(
            charts.ParityEntry(
                label=_target_name(artifact.target),
                group=graph.name if many else "",
                tone=verdict.tone,
                nmse=check.metrics.nmse if check and check.metrics else None,
                limit=check.thresholds.get("nmse") if check else None,
                absent=absent,
            )
        )
    return entries


def _parity_row(graph: Graph, artifact: Artifact, manifest: Manifest) -> dict[str, Any]:
    check = artifact.verify
    samples = check.samples if check else ()
    verdict = words.judge(artifact)
    return {
        "graph": graph.name,
        "target": _target_name(artifact.target),
        "verdict": verdict,
        "level": words.LEVELS[check.level].short if check else "not checked",
        "cells": [_metric(artifact, key) for key in _METRICS],
        "precision": _precision(artifact),
        "samples": ", ".join(samples[:4]) or "none",
        "more": max(0, len(samples) - 4),
    }


def _metric(artifact: Artifact, key: str) -> dict[str, Any]:
    """One figure beside its limit; a cosine's limit is a least one, the others' a most."""
    check = artifact.verify
    if not check or not check.metrics:
        return {"value": words.NONE, "limit": "", "bad": False}
    write = words.cosine if key == "cosine" else words.scientific
    value, limit = getattr(check.metrics, key), check.thresholds.get(key)
    if limit is None:
        return {"value": write(value), "limit": "", "bad": False}
    inside = value >= limit if key == "cosine" else value <= limit
    sign = "≥" if key == "cosine" else "≤"
    bound = f"{limit:g}" if key == "cosine" else words.scientific(limit)
    return {"value": write(value), "limit": f"{sign} {bound}", "bad": not inside}


def _sizes(manifest: Manifest) -> list[charts.Bar]:
    made = [(g, a) for g, a in _artifacts(manifest) if a.bytes > 0]
    top = max((a.bytes for _, a in made), default=0)
    many = len(manifest.graphs) > 1
    return [
        charts.Bar(
            label=_target_name(artifact.target),
            group=graph.name if many else "",
            width=charts.bar_width(artifact.bytes, top),
            value=words.size(artifact.bytes),
            tone="" if artifact.status == "ok" else "rejected",
            note=_SIZE_NOTES[artifact.status],
        )
        for graph, artifact in made
    ]


def _graph(graph: Graph, manifest: Manifest) -> dict[str, Any]:
    panels = [_panel(a, manifest) for g, a in _artifacts(manifest) if g is graph]
    tensors = [("in", t) for t in graph.inputs] + [("out", t) for t in graph.outputs]
    return {
        "name": graph.name,
        "panels": panels,
        "tensors": [
            {
                "way": way,
                "name": t.name,
                "dtype": t.dtype,
                "shape": words.shape(t.shape),
                "dynamic": words.dynamic_ranges(t.shape, graph.dynamic),
            }
            for way, t in tensors
        ],
        "states": graph.states,
    }


def _panel(artifact: Artifact, manifest: Manifest) -> dict[str, Any]:
    """The operators of one artifact and what its target said of it."""
    ranked = sorted(artifact.operators.items(), key=lambda item: (-item[1], item[0]))
    top = ranked[0][1] if ranked else 0
    rest = ranked[TOP_OPERATORS:]
    details = artifact.details
    recipe = details.get("recipe", "")
    delegation = _delegation(details)
    told = _KNOWN_DETAILS - ({"recipe"} if isinstance(recipe, str) else set())
    told |= {"backend"} if delegation else set()
    return {
        "name": _target_name(artifact.target),
        "verdict": words.judge(artifact),
        "kinds": len(ranked),
        "total": f"{sum(artifact.operators.values()):,}",
        "bars": [(op, charts.bar_width(n, top), f"{n:,}") for op, n in ranked[:TOP_OPERATORS]],
        "more": len(rest),
        "more_total": f"{sum(n for _, n in rest):,}",
        "delegation": delegation,
        "engines": _engines(artifact, manifest),
        # A recipe is a file's name or the steps themselves, which are long.
        "recipe": "" if isinstance(recipe, str) else words.plain(recipe),
        "other": [(key, words.listed(value)) for key, value in details.items() if key not in told],
    }


def _delegation(details: Mapping[str, Any]) -> dict[str, Any] | None:
    share = words.number(details.get("delegated_share"))
    if share is None:
        return None
    part, total = words.number(details.get("delegated")), words.number(details.get("total"))
    counted = f" ({part:.0f} of {total:.0f})" if part is not None and total is not None else ""
    backend = f" to {words.plain(details['backend'])}" if details.get("backend") else ""
    left = details.get("undelegated")
    left = left if isinstance(left, Mapping) else {}
    ranked = sorted(left.items(), key=lambda item: (-(words.number(item[1]) or 0), str(item[0])))
    # Rounding must not turn 99.96 % into "100 %".
    text = "100" if share >= 1 else f"{min(100 * share, 99.9):.1f}"
    return {
        "text": f"{text} % of the operators delegated{backend}{counted}",
        "width": charts.percent(100 * min(1.0, max(0.0, share))),
        "left": [(op, words.plain(n)) for op, n in ranked],
    }


def _engines(artifact: Artifact, manifest: Manifest) -> list[dict[str, str]]:
    """Compiled engines; their ``file`` is relative to the artifact's folder or the bundle."""
    engines = artifact.details.get("engines")
    if not isinstance(engines, list | tuple):
        return []
    folder = PurePosixPath(artifact.file or "").parent
    sizes = {f.path: words.size(f.bytes) for f in manifest.files}
    rows = []
    for engine in engines:
        engine = engine if isinstance(engine, Mapping) else {"file": engine}
        file = words.plain(engine.get("file", words.NONE))
        rows.append(
            {
                "file": file,
                "capabilities": words.listed(engine.get("compute_capabilities", words.NONE)),
                "library": words.plain(engine.get("library", words.NONE)),
                "size": sizes.get(str(folder / file)) or sizes.get(file, words.NONE),
            }
        )
    return rows
