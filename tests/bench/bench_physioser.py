"""PhysioSER: how much of the time that is heard does hearing it take, on one core.

Run: ``python tests/bench/bench_physioser.py [--weights FILE] [--precision int8 --calib FOLDER]``.
For the vocal branch and the whole network, on every runtime that is here: the median time of one
window of two seconds, the real-time factor of recordings (windows side by side), that of live
sound (a window every 250 ms), and the peak memory of the process. Random weights take the same
time. The limits are 0.02 and 0.15 for recordings.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

LIMITS = {"physioser-vocal": 0.02, "physioser": 0.15}
HOP = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="a checkpoint of the whole network")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--calib", help="a folder of recordings, for int8")
    parser.add_argument("--target", action="append", default=[], help="default: onnx, openvino")
    options = parser.parse_args()
    from edgekit.models.physioser.entries import WINDOW

    print(f"{'network':16}{'runtime':14}{'ms a window':>12}{'factor':>9}{'live':>8}{'MB':>7}")
    within = True
    with tempfile.TemporaryDirectory() as folder:
        for name, limit in LIMITS.items():
            bundle = Path(folder) / name
            _export(name, bundle, options)
            for row in _bench(bundle, _sound(Path(folder))):
                middle, memory = row["latency_ms"]["p50"], row["peak_rss_mb"]
                factor, live = middle / 1000 / WINDOW, middle / 1000 / HOP
                told = f"{name:16}{row['runtime']:14}{middle:12.2f}{factor:9.4f}{live:8.3f}"
                print(f"{told}{memory:7.0f}")
                within &= factor < limit
    print("within the limits" if within else "ABOVE A LIMIT")
    return 0 if within else 1


def _export(name: str, bundle: Path, options: argparse.Namespace) -> None:
    targets = options.target or ["onnx", "openvino"]
    command = ["export", name, "-o", bundle, "--precision", options.precision, "--quiet"]
    for target in targets:
        command += ["--target", target]
    if options.weights and name == "physioser":
        command += ["--weights", options.weights]
    if options.calib:
        command += ["--calib", options.calib]
    _edgekit(*command)


def _sound(folder: Path) -> Path:
    """Two seconds of noise: what is heard does not change the time."""
    import numpy as np
    import soundfile

    place = folder / "noise.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    soundfile.write(place, noise.astype(np.float32), 16_000)
    return place


def _bench(bundle: Path, sound: Path) -> list[dict]:
    command = ("bench", bundle, "--threads", "1", "--input", sound, "--no-report", "--json")
    return json.loads(_edgekit(*command))["rows"]


def _edgekit(*arguments: object) -> str:
    command = [str(Path(sys.executable).with_name("edgekit")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
