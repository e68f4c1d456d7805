"""``edgekit run``: the whole task on real input."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import BundlePath, GraphName, Json, Quiet
from edgekit.cli.output import Output, table
from edgekit.cli.run_output import Destination, destination
from edgekit.cli.run_prompts import Wishes
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.bundle import Bundle
    from edgekit.runtimes.tasks import Task

ALL = "all"

Inputs = Annotated[list[Path], typer.Argument(metavar="INPUT…", help="Files, or folders of them.")]
RuntimeName = Annotated[
    str, typer.Option("--runtime", "-r", help="A runtime's name, auto, or all side by side.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", "-t", min=1, help="Threads of the engine.")
]
OutPath = Annotated[
    str | None,  # not a Path, which loses the slash at the end of a folder's name
    typer.Option(
        "--out", "-o", metavar="OUT", help="Write: .json, .npz, .png, .wav, .rrd, FOLDER/ …"
    ),
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help='What to look for: "person,car", or a .txt file of lines.'),
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", help="What scores less is not answered (0 to 1).")
]
Masks = Annotated[bool, typer.Option("--masks", help="Outline what is found, too.")]
Agnostic = Annotated[
    bool, typer.Option("--class-agnostic", help="Of what overlaps keep the best, of any class.")
]
Memory = Annotated[
    int | None,
    typer.Option("--memory", min=1, metavar="MIB", help="What classes at once may take."),
]
Track = Annotated[
    bool, typer.Option("--track", help="INPUT is a video or a folder of frames: follow things.")
]
TrackThreshold = Annotated[
    float | None, typer.Option("--track-threshold", help="Score that a track begins with (0.5).")
]


@dataclass
class _Loaded:
    """The task on one runtime."""

    runtime: str
    precision: str
    task: "Task"


@dataclass(frozen=True)
class _Answer:
    """One result in plain values and in words: a mask or feature maps need not be kept."""

    document: dict[str, Any]
    text: str


Answers = list[tuple[Path, list[_Answer]]]  # per file one answer of each runtime


def command(
    bundle: BundlePath,
    inputs: Inputs,
    runtime: RuntimeName = "auto",
    threads: Threads = None,
    graph: GraphName = None,
    classes: Classes = None,
    threshold: Threshold = None,
    class_agnostic: Agnostic = False,
    memory: Memory = None,
    masks: Masks = False,
    track: Track = False,
    track_threshold: TrackThreshold = None,
    out_path: OutPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a bundle on real input: a picture, a file of arrays, a video, a folder.

    Prints what the task finds: labels, boxes, the share of each class, figures of arrays.
    -o writes it: drawn into the picture, as sound or its codes, as JSON, or as arrays.
    """
    from edgekit.bundle import Bundle
    from edgekit.runtimes.tasks import TASKS

    wishes = Wishes(classes, threshold, class_agnostic, memory, masks, track, track_threshold)
    with Output(json, quiet) as out, ExitStack() as stack:
        opened = stack.enter_context(Bundle.open(bundle))
        kind = TASKS.get(opened.manifest.task.kind)
        files = wishes.sources(inputs, kind.suffixes if kind else None)
        with out.status("Loading"):
            loaded, unavailable = _load(stack, opened, runtime, threads, graph)
            for one in loaded:
                wishes.tell(one.task)
        count = len(files) * len(loaded)
        place = None if out_path is None else destination(out_path, count)
        # How many frames a clip has shows when it has been read.
        with out.progress("Running", None if track else count) as advance:
            answers: Answers = [
                (file, [_answer(one, wishes, file, place, advance) for one in loaded])
                for file in files
            ]
        document = _document(bundle, loaded, answers, unavailable)
        if place is not None:
            place.finish(document)
            out.note(f"wrote {place.path}")
        if opened.manifest.model.weights.startswith("random"):
            out.warn(f"{opened.manifest.model.name} has random weights: its answers mean nothing")
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


def _answer(
    one: _Loaded,
    wishes: Wishes,
    file: Path,
    place: Destination | None,
    advance: Callable[[], None],
) -> _Answer:
    result = wishes.answer(one.task, file, advance)
    if place is not None:
        place.take(file, one.runtime, result)
    return _Answer(result.to_json(), result.describe())


def _document(
    bundle: Path, loaded: list[_Loaded], answers: Answers, unavailable: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "bundle": bundle,
        "runtimes": [{"runtime": one.runtime, "precision": one.precision} for one in loaded],
        "unavailable": unavailable,
        "results": [
            {"input": file, "runtime": one.runtime, "result": answer.document}
            for file, found in answers
            for one, answer in zip(loaded, found, strict=True)
        ],
    }


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
            console.print(found[0].text)
        else:
            names = [f"{one.runtime} ({one.precision})" for one in loaded]
            console.print(f"{file}")
            console.print(table(names, [[answer.text for answer in found]]))
    for missing in unavailable:
        console.print(f"{missing['runtime']} did not run: {missing['reason']}")
