"""How well emotions were told: figures with their uncertainty, and a confusion matrix to see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgekit.errors import UsageError

from ..physioser.config import EMOTIONS
from .emotion_training import SpeechSet

_RESAMPLED: Final = 2000
_CELL, _MARGIN = 64, 110


def write_report(
    folder: Path, variant: str, data: SpeechSet, chances: np.ndarray
) -> dict[str, Any]:
    """``VARIANT.json`` and ``VARIANT.png`` in ``folder``, beside those of other variants.

    Args:
        chances: (windows, classes); an utterance is told by the mean of its windows.

    Returns:
        what the JSON file holds: weighted accuracy and unweighted (UAR), each with the 95 %
        interval of 2,000 resamplings of the utterances, recalls, the matrix (row: what it is),
        answers by utterance, and by how much it beats each variant reported there before.

    Raises:
        UsageError: nothing can be written there.
    """
    names, wanted, found = _by_utterance(data, chances)
    matrix = np.zeros((len(EMOTIONS),) * 2, int)
    np.add.at(matrix, (wanted, found), 1)
    draws = _draws(wanted)
    report: dict[str, Any] = {
        "variant": variant,
        "utterances": len(names),
        "speakers": len(set(data.speakers)),
        "accuracy": _interval((wanted == found)[None], draws, wanted, weighted=True),
        "uar": _interval((wanted == found)[None], draws, wanted, weighted=False),
        "recalls": {
            EMOTIONS[c]: float((found[wanted == c] == c).mean()) for c in np.unique(wanted)
        },
        "matrix": matrix.tolist(),
        "answers": {name: EMOTIONS[answer] for name, answer in zip(names, found, strict=True)},
    }
    report["beats"] = dict(_compared(folder, variant, names, wanted, found, draws))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1) + "\n"
        (folder / f"{variant}.json").write_text(text, encoding="utf-8")
        draw_matrix(matrix, f"{variant}: {describe(report).splitlines()[0]}").save(
            folder / f"{variant}.png"
        )
    except OSError as error:
        raise UsageError(f"cannot write {folder}", error.strerror or str(error)) from error
    return report


def describe(report: Mapping[str, Any]) -> str:
    """The figures in words, a line each."""

    def percent(found: Mapping[str, float]) -> str:
        return (
            f"{100 * found['value']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
        )

    lines = [
        f"UAR {percent(report['uar'])}, accuracy {percent(report['accuracy'])} "
        f"of {report['utterances']} utterances"
    ]
    for other, gain in report["beats"].items():
        low, high = (f"{100 * gain[end]:+.1f}" for end in ("low", "high"))
        lines.append(f"UAR {100 * gain['value']:+.1f} points on {other} ({low} to {high})")
    return "\n".join(lines)


def draw_matrix(matrix: np.ndarray, title: str) -> Image.Image:
    """A confusion matrix: rows are what was spoken, columns what was heard."""
    count = len(matrix)
    side = _MARGIN + count * _CELL + 12
    image = Image.new("RGB", (side, side + 24), (255, 255, 255))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    pen.text((8, 8), title, (24, 28, 36), font)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    for row in range(count):
        y = _MARGIN + row * _CELL
        pen.text((8, y + _CELL // 2 - 8), EMOTIONS[row], (24, 28, 36), font)
        pen.text((_MARGIN + row * _CELL + 2, _MARGIN - 22), EMOTIONS[row][:9], (24, 28, 36), font)
        for column in range(count):
            x, share = _MARGIN + column * _CELL, float(shares[row, column])
            tone = tuple(round(255 - share * (255 - dark)) for dark in (33, 78, 140))
            pen.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=tone)
            ink = (255, 255, 255) if share > 0.5 else (60, 66, 76)
            pen.text((x + 8, y + 8), str(matrix[row, column]), ink, font)
            pen.text((x + 8, y + 30), f"{100 * share:.0f} %", ink, font)
    return image


def _by_utterance(data: SpeechSet, chances: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, classes and answers of the utterances."""
    names = list(dict.fromkeys(data.utterances))
    place = {name: index for index, name in enumerate(names)}
    where = np.array([place[name] for name in data.utterances])
    sums = np.zeros((len(names), chances.shape[1]))
    np.add.at(sums, where, chances)
    wanted = np.zeros(len(names), int)
    wanted[where] = data.classes.numpy()
    return names, wanted, sums.argmax(1)


def _draws(wanted: np.ndarray) -> np.ndarray:
    """Resampled utterances, (2000, utterances), within each class: a class is never missing."""
    rng = np.random.default_rng(0)
    parts = [np.flatnonzero(wanted == one) for one in np.unique(wanted)]
    return np.concatenate(
        [part[rng.integers(0, len(part), (_RESAMPLED, len(part)))] for part in parts], axis=1
    )


def _score(right: np.ndarray, wanted: np.ndarray, weighted: bool) -> np.ndarray:
    """Of each row of (R, utterances): the share that is right, or the mean over classes of it."""
    if weighted:
        return right.mean(-1)
    return np.mean(
        [
            np.where(wanted == one, right, 0).sum(-1) / (wanted == one).sum(-1)
            for one in range(len(EMOTIONS))
            if (wanted == one).any()
        ],
        axis=0,
    )


def _interval(
    right: np.ndarray, draws: np.ndarray, wanted: np.ndarray, weighted: bool
) -> dict[str, float]:
    value = float(_score(right.astype(float), wanted[None], weighted)[0])
    spread = _score(right[0].astype(float)[draws], wanted[draws], weighted)
    low, high = np.quantile(spread, (0.025, 0.975))
    return {"value": value, "low": float(low), "high": float(high)}


def _compared(
    folder: Path,
    variant: str,
    names: list[str],
    wanted: np.ndarray,
    found: np.ndarray,
    draws: np.ndarray,
) -> Any:
    """Against each other variant on the same utterances: the paired difference in UAR."""
    for path in sorted(folder.glob("*.json")):
        try:
            answers = json.loads(path.read_text(encoding="utf-8"))["answers"]
        except (OSError, ValueError, KeyError):
            continue
        if path.stem == variant or list(answers) != names:
            continue
        other = np.array([EMOTIONS.index(answers[name]) for name in names])
        gain = (found == wanted).astype(float) - (other == wanted).astype(float)
        yield path.stem, _interval(gain[None], draws, wanted, weighted=False)
