"""The first look: one pretrained classifier, five targets, one photograph.

Run: ``make demo``, or ``python -m edgekit.apps.quickstart [PHOTO] [-o OUT]``.

EfficientNet-Lite0 with its ImageNet weights is exported to every target and measured, then
labels a photograph on every runtime that runs here. The three CPU runtimes must give the
same five labels in the same order; otherwise the exit code is 5. What cannot run on this
machine is not claimed to: TensorRT engines are compiled, Core ML packages interpreted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.cli import main as edgekit
from edgekit.cli.output import size, table
from edgekit.errors import EdgekitError, MissingBackendError, ParityError
from edgekit.manifest import Artifact

from ..devices.sample_input import installed_photograph
from ..runtimes import available, load, tasks
from ..runtimes.tasks.classification import Prediction
from ..runtimes.tasks.pictures import decode

MODEL = "efficientnet-lite0"
OUT = Path("bundles") / MODEL
PROMISED = ("onnxruntime", "openvino", "executorch")  # run on any desktop processor
REPEAT = 20  # samples a row: a first look, not a measurement to publish

Answer = tuple[Prediction, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the whole demo; returns the exit code of the first step that fails.

    Args:
        arguments: what follows the program's name; by default the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m edgekit.apps.quickstart")
    parser.add_argument("photo", nargs="?", type=Path, help="by default one that a package ships")
    parser.add_argument("-o", "--out", type=Path, default=OUT, help="where the bundle goes")
    options = parser.parse_args(arguments)
    try:
        photo = options.photo or shipped_photograph()
        decode(photo)  # a picture that cannot be read ends it here, not after a minute
        return show(photo, options.out)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def show(photo: Path, out: Path) -> int:
    """Export, measure and label ``photo``; returns 0 or the exit code of the command that
    failed (which has said why).

    Raises:
        ParityError: the runtimes do not agree. MissingBackendError: one that is promised
        is not here, or compiled no engine. InputError: the photograph cannot be read.
    """
    for command in (
        ("export", MODEL, "--target", "all", "-o", str(out), "--no-report"),
        ("bench", str(out), "--repeat", str(REPEAT), "--threads", "1", "--save"),
    ):
        print(f"\n$ edgekit {' '.join(command)}", flush=True)
        if code := edgekit(command):
            return code
    with Bundle.open(out) as bundle:
        answers = label(bundle, photo)
        print_answers(photo, answers)
        check_agreement(answers, out)
        print(f"{', '.join(PROMISED)}: the same labels in the same order")
        artifacts = {artifact.target: artifact for artifact in bundle.graph().artifacts}
        print(tensorrt_line(artifacts["tensorrt"], bundle))
        print(coreml_line(artifacts["coreml"]))
    print(f"report: {out / 'report.html'}")
    print(f"before a camera, in the browser: edgekit demo classify {out} --open")
    return 0


def shipped_photograph() -> Path:
    """A photograph inside an installed package.

    Raises:
        MissingBackendError: no package here ships one.
    """
    photo = installed_photograph()
    if photo is None:
        raise MissingBackendError(
            "no photograph to label", "scikit-image is not installed", "name one, or run make demo"
        )
    return photo


def label(bundle: Bundle, photo: Path) -> dict[str, Answer]:
    """The answer of every runtime that runs here, the most likely label first.

    Raises:
        MissingBackendError: one of :data:`PROMISED` is not among them.
    """
    found = {}
    for runtime in dict.fromkeys((*PROMISED, *available(bundle))):
        with load(bundle, runtime, threads=1) as session:
            found[runtime] = tasks.for_bundle(bundle, session)(photo).top
    return found


def check_agreement(answers: Mapping[str, Answer], bundle: Path) -> None:
    """Raise ParityError unless all of :data:`PROMISED` give the same labels in one order."""
    labels = {name: [guess.label for guess in answers[name]] for name in PROMISED}
    first, *others = PROMISED
    for other in others:
        if labels[other] != labels[first]:
            raise ParityError(
                f"{first} and {other} label the photograph differently",
                f"{', '.join(labels[first])} against {', '.join(labels[other])}",
                f"edgekit verify {bundle} --locate",
            )


def print_answers(photo: Path, answers: Mapping[str, Answer]) -> None:
    """One row a rank, one column a runtime."""
    from rich.console import Console

    rows = [
        (rank, *(f"{guess.score:6.1%}  {guess.label}" for guess in guesses))
        for rank, guesses in enumerate(zip(*answers.values(), strict=True), start=1)
    ]
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table((">", *answers), rows, title=f"\n{photo.name}, as each runtime sees it"))


def tensorrt_line(artifact: Artifact, bundle: Bundle) -> str:
    """What was compiled for NVIDIA GPUs, for which of them, and how large it is.

    Raises:
        MissingBackendError: there is no engine in the bundle.
    """
    engines = artifact.details.get("engines", [])
    if not engines:
        raise MissingBackendError(
            "no TensorRT engine was compiled",
            artifact.reason or "TensorRT for RTX is not installed",
            'pip install "edgekit-toolkit[tensorrt]"',
        )
    parts = [
        f"{size(bundle.file(engine['file']).stat().st_size)} for compute capabilities "
        f"{', '.join(engine['compute_capabilities'])} by {engine['library']}"
        for engine in engines
    ]
    return f"tensorrt: {'; '.join(parts)} ({_check(artifact)})"


def coreml_line(artifact: Artifact) -> str:
    """What was converted for Apple systems, and from which of them on it runs."""
    minimum = artifact.details.get("minimum", "an unstated version")
    return f"coreml: {size(artifact.bytes)} ML program for {minimum} ({_check(artifact)})"


def _check(artifact: Artifact) -> str:
    level = artifact.verify.level if artifact.verify else "not checked"
    if level in ("ran", "interpreted"):
        return f"{level} here, compared with PyTorch"
    return f"{level}, not run here"


if __name__ == "__main__":
    sys.exit(main())
