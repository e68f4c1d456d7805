"""``edgekit export``: a model to its targets, verified, in one bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.accuracy import show_evaluation
from edgekit.cli.export_memory import in_words, memory_on
from edgekit.cli.options import Json, Locate, Quiet, Tolerance
from edgekit.cli.output import Output, size, table
from edgekit.cli.quantisation import (
    Calib,
    CalibMethod,
    CalibSamples,
    Compare,
    EvalSamples,
    Format,
    GroupSize,
    MaxDrop,
    SchemeName,
    Sensitivity,
    quantisation,
    show_comparison,
)
from edgekit.errors import EdgekitError, MissingBackendError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.devices.profiles import Profile
    from edgekit.export.result import ExportResult, TargetResult

# A first look at the speed of each runtime for the report; `edgekit bench` measures properly.
QUICK_REPEAT = 20

LEVELS = {
    "ran": "ran here, compared with PyTorch",
    "interpreted": "interpreted here, compared with PyTorch",
    "compiled": "compiled, not run here",
    "converted": "converted, not run here",
}


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name of `edgekit models`, timm:NAME, hf:FOLDER, PATH.py:CALLABLE, "
        "package.module:CALLABLE, a .pt2, an .onnx or a .gguf file.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", "-t", help="onnx, openvino, executorch, coreml, tensorrt, all; repeatable."
    ),
]
OutPath = Annotated[
    Path | None, typer.Option("--out", "-o", help="A folder, or a file ending in .edgekit.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="A checkpoint (.safetensors, .pt), random, or pretrained."),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="fp32 (the default), fp16, bf16, int8, int4 or mixed."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME:DTYPE[SHAPE] of a model of your own; repeatable."),
]
Dynamic = Annotated[
    list[str] | None,
    typer.Option("--dynamic", help="NAME:AXIS=MIN..MAX, e.g. image:batch=1..8; repeatable."),
]
Resolution = Annotated[str | None, typer.Option("--resolution", help="H or HxW of pictures.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="A name of `edgekit devices` or a TOML file: its defaults."),
]
Head = Annotated[
    str | None,
    typer.Option("--head", help="classification, features, retinanet or semantic-fpn."),
]
Classes = Annotated[
    int | None, typer.Option("--classes", help="How many it tells apart; else as trained.")
]
Samples = Annotated[Path | None, typer.Option("--samples", help="Real inputs to verify with, too.")]
Eval = Annotated[
    Path | None,
    typer.Option(
        "--eval",
        help="Labelled pictures to measure the accuracy on: a folder or file. For integer "
        "precisions also samples without labels.",
    ),
]
AllowDrift = Annotated[
    bool, typer.Option("--allow-drift", help="Keep what fails the comparison, and say so.")
]
Report = Annotated[
    bool, typer.Option("--report/--no-report", help="Write report.html, with a quick timing.")
]


def command(
    model: Model,
    target: Targets = None,
    out: OutPath = None,
    weights: Weights = None,
    precision: Precision = None,
    inputs: Inputs = None,
    dynamic: Dynamic = None,
    resolution: Resolution = None,
    head: Head = None,
    classes: Classes = None,
    device: Device = None,
    samples: Samples = None,
    calib: Calib = None,
    calib_method: CalibMethod = "minmax",
    calib_samples: CalibSamples = 256,
    evaluation: Eval = None,
    eval_samples: EvalSamples = 2000,
    max_drop: MaxDrop = None,
    scheme: SchemeName = None,
    group_size: GroupSize = 32,
    weight_format: Format = "linear",
    compare: Compare = "fp32,fp16",
    sensitivity: Sensitivity = False,
    tolerance: Tolerance = None,
    allow_drift: AllowDrift = False,
    locate: Locate = False,
    report: Report = True,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Take a model to its targets, verify each against PyTorch, and write one bundle.

    Exits 5 if an artifact is not the same model any more, 6 if it loses more than --max-drop
    allows (either is kept as *.rejected), 4 if a target does not support an operator, 3 if a
    back end is not installed. The targets that work are in the bundle all the same.
    """
    from edgekit.export.options import parse_dynamic, parse_input, parse_resolution
    from edgekit.quant.precision import parse_tolerance

    profile = _profile(device)
    arguments: dict[str, Any] = {
        "targets": target or (profile.export.targets if profile else ["onnx"]),
        "out": out,
        "precision": precision or (profile.export.precision if profile else "fp32"),
        "weights": weights,
        "inputs": [parse_input(text) for text in inputs or ()],
        "dynamic": parse_dynamic(dynamic or ()),
        "resolution": parse_resolution(resolution),
        "head": head,
        "classes": classes,
        "samples": samples,
        "evaluation": evaluation,
        "tolerance": parse_tolerance(tolerance),
        "allow_drift": allow_drift,
        "locate": locate,
        "device": profile.hint() if profile else None,
    }
    arguments["quantisation"] = quantisation(
        arguments["precision"],
        calibration=calib,
        method=calib_method,
        count=calib_samples,
        evaluation_count=eval_samples,
        max_drop=max_drop,
        scheme=scheme,
        group_size=group_size,
        weight_format=weight_format,
        compare=compare,
        sensitivity=sensitivity,
    )
    with Output(json, quiet) as output:
        if profile:
            _say_device(output, profile, arguments)
        return _run(output, model, arguments, report, profile)


def _profile(device: str | None) -> "Profile | None":
    if device is None:
        return None
    from edgekit.devices import profiles

    return profiles.profile(device)


def _say_device(output: Output, profile: "Profile", arguments: dict[str, Any]) -> None:
    targets, threads = arguments["targets"], profile.export.threads
    output.note(
        f"for {profile.title}: {', '.join(targets)} in {arguments['precision']}"
        + (f", {threads} threads" if threads else "")
    )
    if {"tensorrt", "all"}.intersection(targets):
        for remark in profile.build_remarks():
            output.note(f"for {profile.title}: {remark}")


def _run(
    output: Output,
    model: str,
    arguments: dict[str, Any],
    report: bool,
    profile: "Profile | None" = None,
) -> int:
    result = _export(output, model, arguments)
    memory = memory_on(result.bundle, profile) if profile else []
    if report:
        _write_report(output, result)
    if result.weights.startswith("random"):
        output.warn(f"{result.model} has {result.weights} weights; give --weights FILE")
    document = result.to_json() | ({"memory": memory} if profile else {})
    output.result(document, lambda console: _show(console, result))
    for row in memory:
        output.note(f"memory of {profile.title}: {in_words(row)}")
    for row in (result.evaluation or {}).get("rows", ()):
        if row["reason"]:
            output.note(f"no accuracy on {row['runtime']}: {row['reason']}")
    for remark in (result.comparison or {}).get("remarks", ()):
        output.warn(remark)
    for one in result.targets:
        if one.reason:
            output.warn(f"{one.target} {one.status}: {one.reason}")
        for note in _remarks(one):
            output.note(f"{one.target}: {note}")
    return result.exit_code


def _export(output: Output, model: str, arguments: dict[str, Any]) -> "ExportResult":
    from edgekit.export import export

    need_torch()
    with output.steps() as step:
        return export(model, report=False, progress=step, **arguments)


def need_torch() -> None:
    """Raise MissingBackendError where only the on-device part of edgekit is installed."""
    from importlib.util import find_spec

    for module in ("torch", "onnxscript"):
        if find_spec(module) is None:
            raise MissingBackendError(
                "the exporter is not installed",
                f"no module {module}",
                'pip install "edgekit-toolkit[export]"',
            )


def _write_report(output: Output, result: "ExportResult") -> None:
    """The report, with timings of this host: measured once per bundle and host, then kept."""
    from edgekit.bundle import Bundle
    from edgekit.devices import bench
    from edgekit.export import refresh_report
    from edgekit.measurements import rows_for, save

    with output.status("Timing each runtime for the report"):
        try:
            with Bundle.open(result.bundle) as bundle:
                runs = any(t.status == "ok" for t in result.targets)
                if runs and not rows_for(bundle.digest):
                    measured = bench.benchmark(bundle, (), (1,), QUICK_REPEAT)
                    rows = [asdict(row) for row in measured.rows]
                    name = bundle.manifest.model.name
                    save(bundle.digest, rows, measured.host, model=name)
        except EdgekitError as error:
            output.note(f"no timings in the report: {error}")
        refresh_report(result.bundle)


def _show(console: "Console", result: "ExportResult") -> None:
    columns = ("target", "status", "how it was checked", ">NMSE", "computes in", ">size")
    console.print(table(columns, (_row(one) for one in result.targets)))
    if result.evaluation:
        show_evaluation(console, result.evaluation)
    if result.comparison:
        show_comparison(console, result.comparison)
    console.print(f"bundle: {result.bundle}")
    if (report := result.bundle / "report.html").is_file():
        console.print(f"report: {report}")


def _remarks(one: "TargetResult") -> list[str]:
    """What a reader should know of a comparison that was made."""
    checks = [graph.verify for graph in one.graphs if graph.verify]
    return [note for check in checks if check["metrics"] for note in check["notes"]]


def _row(one: "TargetResult") -> tuple:
    checks = [graph.verify for graph in one.graphs if graph.verify]
    level = LEVELS[checks[0]["level"]] if checks else ""
    errors = [check["metrics"]["nmse"] for check in checks if check["metrics"]]
    nmse = f"{max(float(error) for error in errors):.1e}" if errors else ""
    precisions = {graph.effective_precision for graph in one.graphs} - {None}
    total = sum(graph.bytes for graph in one.graphs)
    return (one.target, one.status, level, nmse, ", ".join(sorted(precisions)), size(total))
