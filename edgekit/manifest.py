"""The manifest of a bundle: what it holds, for whom, and how well it was proved.

The manifest is plain JSON (``manifest.json``). These classes are its schema: unknown
fields are refused, so that a manifest of a later schema is not half understood. Nothing
in it depends on the time, the place or the user: the same inputs and versions give the
same bytes.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
REPORT_NAME: Final = "report.html"

TARGETS: Final = ("onnx", "openvino", "executorch", "coreml", "tensorrt")
PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8", "int4")

Level = Literal["ran", "interpreted", "compiled", "converted"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    # JSON knows no infinity: a failed comparison is written as the string "Infinity".
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class TensorSpec(_Record):
    """One named input or output. ``shape`` holds sizes; a string names a dynamic axis."""

    name: str
    dtype: str  # a NumPy name: float32, float16, int64, bool, …
    shape: tuple[int | str, ...]


class AxisRange(_Record):
    """The sizes that a dynamic axis may take, both ends included."""

    min: int
    max: int


class StatePair(_Record):
    """An output that a streaming session feeds back into an input at the next step.

    With ``ring_axis`` the input is a ring, and the output only what is new in it: it is written
    along that axis, from the slot on that the one-element state ``ring_slot`` held before the
    step. The output is then shorter than the input along that axis, and alike in the rest.
    """

    input: str
    output: str
    ring_axis: int | None = Field(default=None, ge=0)
    ring_slot: str | None = None


class Metrics(_Record):
    """How far an output is from its reference, free of scale (see ``edgekit.metrics``)."""

    max_abs: float
    rel_range: float
    nmse: float
    cosine: float


class Verification(_Record):
    """How an artifact was checked and what came out; thresholds are kept to judge again."""

    level: Level
    passed: bool
    metrics: Metrics | None = None
    thresholds: dict[str, float] = {}
    samples: tuple[str, ...] = ()  # what was fed: "random seed 0", "photo.jpg", …
    notes: tuple[str, ...] = ()


class Accuracy(_Record):
    """How many labelled pictures were told right, in percent.

    ``top5`` counts those whose class is among the five most likely. ``disagreements`` is how
    many were answered differently by PyTorch's eager fp32 network; None where it was not asked.
    """

    top1: float = Field(ge=0, le=100)
    top5: float = Field(ge=0, le=100)
    samples: int = Field(ge=1)
    disagreements: int | None = Field(default=None, ge=0)


class Fidelity(_Record):
    """How true an artifact is to PyTorch's fp32 network on the evaluation samples.

    ``agreement`` is how many are answered with the same class, ``top1`` how many of the
    labelled ones are right; both in percent, and None where there are no classes or labels.
    ``nmse`` is over all samples, of the output that is worst.
    """

    samples: int = Field(ge=1)
    nmse: float
    agreement: float | None = Field(default=None, ge=0, le=100)
    top1: float | None = Field(default=None, ge=0, le=100)


class LayerError(_Record):
    """A layer of the common graph, and the outputs' NMSE when it alone is quantised."""

    node: str
    module: str
    nmse: float


class Quantisation(_Record):
    """How an artifact was quantised, and what that cost.

    ``kept`` are the layers that stay in floating point, the most sensitive first. ``drop`` is
    what was lost beside PyTorch, in the unit of the budget: points of top-1 where there are
    labels, points of agreement where there are classes, else 100 times the NMSE.
    """

    scheme: Literal["static", "dynamic", "weights"]
    bits: Literal[4, 8]
    kept: tuple[LayerError, ...] = ()
    layers: int = 0
    fidelity: Fidelity | None = None
    drop: float | None = None
    max_drop: float | None = None


class Artifact(_Record):
    """What one target made of one graph.

    ``file`` is what the runtime loads (for Core ML a folder), relative to the bundle;
    ``extra`` are further files that belong to it. A failed artifact keeps its reason and
    its ``file`` ends in ``.rejected`` (or is absent when nothing was produced).
    """

    target: str
    status: Literal["ok", "failed", "unavailable"]
    reason: str | None = None
    exit_code: int = 0
    file: str | None = None
    extra: tuple[str, ...] = ()
    bytes: int = 0
    precision: str = "fp32"  # what was asked
    effective_precision: str | None = None  # what the runtime said it uses
    operators: dict[str, int] = {}
    details: dict[str, Any] = {}  # delegation, engines, recipe, opset, …
    verify: Verification | None = None
    accuracy: Accuracy | None = None
    quantisation: Quantisation | None = None


class PickedRows(_Record):
    """That a graph's outputs are rows which it picked itself, e.g. the best candidates.

    ``keys`` are the outputs that say which ones, ``by`` is what they were picked by. What is
    picked at equal values, and in which order, is rounding: rows are compared by their keys.
    """

    keys: tuple[str, ...]
    by: str


class Graph(_Record):
    """One graph of the model with its contract and its artifact per target."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic: dict[str, AxisRange] = {}
    states: tuple[StatePair, ...] = ()
    picked: PickedRows | None = None
    reference: str | None = None  # safetensors file: inputs and eager outputs
    artifacts: tuple[Artifact, ...] = ()


class ModelInfo(_Record):
    """Which network this is and where its weights came from.

    ``recipe`` is what the user said beside the name (weights, inputs, resolution), so that
    the network can be made again to locate a departure.
    """

    name: str
    source: str  # what the user typed as MODEL
    recipe: dict[str, Any] = {}
    weights: str  # "random (seed 0)", or the origin of the checkpoint
    weights_sha256: Sha256 | None = None  # of the state dict's tensors, as exported
    parameters: int = 0
    macs: int | None = None
    paper: str | None = None
    licence: str | None = None


class TaskInfo(_Record):
    """What the outputs mean and how real input becomes tensors (see edgekit.runtimes.tasks)."""

    kind: str = "tensors"
    params: dict[str, Any] = {}


class DeviceHint(_Record):
    """The device that the bundle was made for, and how it is best run there.

    ``runtimes`` are preferred first; one that a reader does not know is passed over.
    ``threads`` None leaves their number to the runtime.
    """

    name: str
    runtimes: tuple[str, ...] = ()
    threads: int | None = Field(default=None, ge=1)


class EvaluationInfo(_Record):
    """The labelled pictures on which accuracy was measured, and PyTorch's own on them.

    ``sha256`` is of the list of samples: each one's name, class and content, in order. Each
    artifact has its own figures; latencies are not here, since they differ from run to run.
    """

    dataset: str
    sha256: Sha256
    pytorch: Accuracy


class SamplesInfo(_Record):
    """Which samples: what they are, how many, and the sha256 of their list."""

    title: str
    samples: int = Field(ge=1)
    sha256: Sha256


class PrecisionRow(_Record):
    """One target in one precision, beside the others: the table without its timings."""

    target: str
    variant: str  # fp32, fp16, int8, int4, mixed
    status: Literal["ok", "failed", "unavailable"]
    bytes: int = 0
    kept: int = 0
    fidelity: Fidelity | None = None
    judged_by: str | None = None  # what ran it, if not its own runtime
    reason: str | None = None


class QuantisationInfo(_Record):
    """What all artifacts of a quantised bundle have in common, and how they compare.

    ``reference`` is PyTorch's own fidelity: its top-1 where there are labels.
    """

    precision: str
    method: str | None = None
    calibration: SamplesInfo | None = None
    evaluation: SamplesInfo
    labelled: bool
    reference: Fidelity
    max_drop: float | None = None
    sensitivity: tuple[LayerError, ...] = ()
    rows: tuple[PrecisionRow, ...] = ()


class FileEntry(_Record):
    """One file of the bundle, path relative and with forward slashes."""

    path: str
    bytes: int = Field(ge=0)
    sha256: Sha256


class Manifest(_Record):
    """The whole manifest. ``files`` lists every file but the manifest and the report.

    The report shows timings of the host that made it, so it stands apart: ``report`` has
    its checksum, and :meth:`edgekit.bundle.Bundle.digest` leaves it out.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    edgekit: str
    model: ModelInfo
    task: TaskInfo = TaskInfo()
    precision: str = "fp32"
    drift_allowed: bool = False
    device: DeviceHint | None = None
    evaluation: EvaluationInfo | None = None
    quantisation: QuantisationInfo | None = None
    graphs: tuple[Graph, ...]
    tools: dict[str, str] = {}
    files: tuple[FileEntry, ...]
    report: FileEntry | None = None
