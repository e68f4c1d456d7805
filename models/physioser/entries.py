"""What the registry has of PhysioSER: the whole network, and the vocal branch alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgekit.manifest import TaskInfo

from ..spec import LABELS, GraphSpec, InputSpec, ModelSpec
from .config import EMOTIONS, FrontEndConfig

#: Seconds that the network hears at once: a short sentence.
WINDOW: Final = 2.0
KIND: Final = "speech-emotion"
EXPLAIN: Final = "explain"

_SAMPLES = round(WINDOW * FrontEndConfig.rate)
_WAVEFORM = InputSpec("waveform", "float32", (1, _SAMPLES))

GRAPHS: Final = (
    GraphSpec("forward", (_WAVEFORM,), ("probabilities",)),
    GraphSpec(
        EXPLAIN,
        (_WAVEFORM,),
        ("probabilities", "quartet", "without"),
        method=EXPLAIN,
        alternative="forward",
        exact=True,
    ),
)

TASK: Final = TaskInfo(
    kind=KIND,
    params={
        "input": "waveform",
        "output": "probabilities",
        "rate": FrontEndConfig.rate,
        "step": WINDOW / 2,
        "explain": EXPLAIN,
        "labels": LABELS,
    },
)

_WHOLE = ModelSpec(
    name="physioser",
    builder="edgekit.models.physioser.build:build",
    graphs=GRAPHS,
    task=TASK,
    parameters=8_757_095,
    macs=1_091_281_216,
    paper="PhysioSER, arXiv:2602.13259",
    licence="Apache-2.0",
    assets={LABELS: "emodb7.txt"},
    heads=(KIND,),
    changes=("speech", "components"),
    classes=len(EMOTIONS),
    rows=("classifier.bias", 1),
)

ENTRIES: Final = (
    _WHOLE,
    replace(
        _WHOLE,
        name="physioser-vocal",
        builder_args=("vocal",),
        parameters=155_367,
        macs=254_157_088,
        changes=("components",),
    ),
)
