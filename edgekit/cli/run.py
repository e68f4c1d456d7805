"""``edgekit run``: the whole task on real input."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import BundlePath, GraphName, Json, Quiet
from edgekit.cli.output import Output, dumps, table, write_whole
from edgekit.errors import EdgekitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Bundle
    from edgekit.runtimes.tasks import Result, Task

ALL = "all"
RESULTS_NAME = "results.json"
ARRAYS_SUFFIX = ".npz"

Answers = list[tuple[Path, list["Result"]]]  # per file one answer of each runtime

Inputs = Annotated[list[Path], typer.Argument(metavar="INPUT…", help="Files, or folders of them.")]
RuntimeName = Annotated[
    str, typer.Option("--runtime", "-r", help="A runtime's name, auto, or all side by side.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", "-t", min=1, help="Threads of the engine.")
]
OutPath = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="OUT", help="Write the results: .json, or .npz."),
]


@dataclass
class _Loaded:
    """The task on one runtime."""

    runtime: str
    precision: str
    task: "Task"


def command(
    bundle: BundlePath,
    inputs: Inputs,
    runtime: RuntimeName = "auto",
    threads: Threads = None,
    graph: GraphName = None,
    out_path: OutPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a bundle on real input: a picture, a file of arrays, a folder.

    Prints what the task finds: for a classifier the most likely labels.
    """
    from edgekit.bundle import Bundle
    from edgekit.runtimes.tasks import TASKS
    from edgekit.runtimes.tasks.inputs import expand

    with Output(json, quiet) as out, ExitStack() as stack:
        opened = stack.enter_context(Bundle.open(bundle))
        kind = TASKS.get(opened.manifest.task.kind)
        files = expand(inputs, kind.suffixes if kind else None)
        with out.status("Loading"):
            loaded, unavailable = _load(stack, opened, runtime, threads, graph)
        with out.progress("Running", len(files)) as advance:
            answers: Answers = []
            for file in files:
                answers.append((file, [one.task(file) for one in loaded]))
                advance()
        document = _document(bundle, loaded, answers, unavailable)
        if out_path is not None:
            _save(out, out_path, document, answers)
        out.result(document, lambda console: _show(console, loaded, answers, unavailable))


def _load(
    stack: ExitStack, bundle: "Bundle", runtime: str, threads: int | None, graph: str | None
) -> tuple[list[_Loaded], list[dict[str, str]]]:
    """Sessions that stay open as long as ``stack``, and why the others are not among them."""
    from edgekit.runtimes import RUNTIMES, load, tasks

    loaded: list[_Loaded] = []
    unavailable: list[dict[str, str]] = []
    failure: EdgekitError | None = None
    for name in tuple(RUNTIMES) if runtime == ALL else (runtime,):
        try:
            session = stack.enter_context(load(bundle, name, threads=threads, graph=graph))
        except EdgekitError as error:
            if runtime != ALL:
                raise
            unavailable.append({"runtime": name, "reason": str(error)})
            failure = failure or error
            continue
        task = tasks.for_bundle(bundle, session)
        loaded.append(_Loaded(session.runtime, session.effective_precision, task))
    if not loaded and failure is not None:
        raise failure
    return loaded, unavailable


def _document(
    bundle: Path, loaded: list[_Loaded], answers: Answers, unavailable: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "bundle": bundle,
        "runtimes": [{"runtime": one.runtime, "precision": one.precision} for one in loaded],
        "unavailable": unavailable,
        "results": [
            {"input": file, "runtime": one.runtime, "result": result.to_json()}
            for file, found in answers
            for one, result in zip(loaded, found, strict=True)
        ],
    }


def _save(out: Output, path: Path, document: dict[str, Any], answers: Answers) -> None:
    """Write the document as JSON; or, to a name in ``.npz``, the arrays of a single answer."""
    if path.suffix == ARRAYS_SUFFIX:
        single = answers[0][1][0] if len(document["results"]) == 1 else None
        save = getattr(single, "save", None)
        if save is None:
            raise UsageError(
                f"cannot write {path}",
                "only one answer of a task of plain tensors is a file of arrays",
                "give -o a name that ends in .json",
            )
        write_whole(path, save)
    else:
        path = path / RESULTS_NAME if path.is_dir() else path
        write_whole(path, lambda part: part.write_text(dumps(document), encoding="utf-8"))
    out.note(f"wrote {path}")


def _show(
    console: "Console",
    loaded: Sequence[_Loaded],
    answers: Answers,
    unavailable: list[dict[str, str]],
) -> None:
    """One block an input; several runtimes stand side by side."""
    for file, found in answers:
        if len(loaded) == 1:
            console.print(f"{file} ({loaded[0].runtime}, {loaded[0].precision})")
            console.print(found[0].describe())
        else:
            names = [f"{one.runtime} ({one.precision})" for one in loaded]
            console.print(f"{file}")
            console.print(table(names, [[result.describe() for result in found]]))
    for missing in unavailable:
        console.print(f"{missing['runtime']} did not run: {missing['reason']}")
