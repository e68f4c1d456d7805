"""Mimi at its full size on a minute of speech: is it faster than real time, and than PyTorch?

Run: ``python tests/bench/bench_moshi.py [--bundle FOLDER] [--threads N] [--seconds S]``. Frame by
frame, 80 ms each, encoded and decoded at once; the same frames in turn on every runtime that is
here and in the same modules in eager PyTorch, so that all see the same machine. Random weights
take the same time. Prints per runtime the median and the 99th percentile of a frame, the real-time
factor, how much faster than PyTorch it is (the median of the frames' own ratios), and what the
streaming session takes beside the runtime's own calls on the same arrays.

The limits, on two cores: one runtime is faster than real time, at least twice as fast as PyTorch,
and its 99th percentile is below 80 ms; the session takes 3 % at most.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("EDGEKIT_DATA", Path(__file__).parents[2].parent / "shared"))
FRAME_MS = 80.0
WARM_UP = 10
LIMITS = {"speedup": 2.0, "p99": FRAME_MS, "overhead": 0.03}


def speech(seconds: float) -> np.ndarray:
    """A minute of real speech, (frames, 1, 1, 1920)."""
    from edgekit.runtimes.sounds import read_sound

    files = sorted((DATA / "data/speech").glob("*.flac"))
    if not files:
        sys.exit(f"no speech under {DATA} (set EDGEKIT_DATA)")
    sound = np.concatenate([read_sound(file, 24_000) for file in files])
    count = min(len(sound), round(seconds * 24_000)) // 1920
    return sound[: count * 1920].reshape(count, 1, 1, 1920)


class Eager:
    """The same modules, frame by frame in PyTorch."""

    def __init__(self, threads: int) -> None:
        import torch

        from edgekit import models
        from edgekit.models.moshi.config import MIMI
        from edgekit.models.moshi.states import decoder_states, encoder_states

        torch.set_num_threads(threads)
        self._torch, self._network = torch, models.build("mimi")
        self._states = {"encode": encoder_states(MIMI), "decode": decoder_states(MIMI)}
        self._now = {
            name: [torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in states]
            for name, states in self._states.items()
        }

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            codes = self._run("encode", self._torch.from_numpy(pcm))
            self._run("decode", codes)
        return codes.numpy()

    def _run(self, name: str, given):
        answer, *rest = getattr(self._network, name)(given, *self._now[name])
        states, old = self._states[name], self._now[name]
        new = rest[-len(states) :]
        slot = int(old[-1])
        for index, state in enumerate(states):
            if state.steps is None:
                old[index] = new[index]
            else:
                old[index][:, :, slot : slot + state.steps] = new[index]
        return answer


class Streamed:
    """Both streaming sessions of one runtime."""

    def __init__(self, bundle: Path, runtime: str, threads: int) -> None:
        from edgekit.runtimes import stream

        self._encoder = stream(bundle, runtime, threads, "encode")
        self._decoder = stream(bundle, runtime, threads, "decode")
        streams = (self._encoder, self._decoder)
        self._codes, self._sound = (
            {spec.name: np.zeros(spec.shape, spec.dtype) for spec in one.outputs} for one in streams
        )

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        self._encoder.step({"pcm": pcm}, self._codes)
        self._decoder.step({"codes": self._codes["codes"]}, self._sound)
        return self._codes["codes"]


class Inside:
    """Times the runtime's own calls inside a streaming session's steps."""

    def __init__(self, streamed: Streamed) -> None:
        self.seconds = 0.0
        for one in (streamed._encoder, streamed._decoder):
            one._runs = [self._timed(run) for run in one._runs]

    def _timed(self, run):
        def timed() -> None:
            start = time.perf_counter()
            run()
            self.seconds += time.perf_counter() - start

        return timed


def overhead(streamed: Streamed, frames: np.ndarray) -> float:
    """What a step takes beside the runtime's own call on the same arrays, as a share of it."""
    inside, shares = Inside(streamed), []
    for pcm in frames:
        before, start = inside.seconds, time.perf_counter()
        streamed(pcm)
        whole = time.perf_counter() - start
        bare = inside.seconds - before
        shares.append((whole - bare) / bare)
    return float(np.median(shares[WARM_UP:]))


def measure(runners: dict, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Milliseconds of each frame on each runner, all in turn; codes must agree."""
    taken: dict[str, list[float]] = {name: [] for name in runners}
    same = total = 0
    names = list(runners)
    for number, pcm in enumerate(frames):
        codes = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            codes[name] = runners[name](pcm)
            taken[name].append(1000 * (time.perf_counter() - start))
        others = [c for name, c in codes.items() if name != "PyTorch"]
        total += sum(c.size for c in others)
        same += sum(int((c == codes["PyTorch"]).sum()) for c in others)
    print(f"{same} of {total} codes are PyTorch's ({len(frames)} frames)")
    return {name: np.array(times[WARM_UP:]) for name, times in taken.items()}


def report(taken: dict[str, np.ndarray]) -> bool:
    print(f"{'':14}{'p50 ms':>9}{'p99 ms':>9}{'of real time':>14}{'x PyTorch':>11}")
    best = False
    for name, times in taken.items():
        middle, worst = np.percentile(times, (50, 99))
        factor = times.mean() / FRAME_MS
        faster = float(np.median(taken["PyTorch"] / times))
        print(f"{name:14}{middle:9.2f}{worst:9.2f}{factor:14.3f}{faster:11.2f}")
        if name != "PyTorch":
            best |= factor < 1 and faster >= LIMITS["speedup"] and worst < LIMITS["p99"]
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="of mimi, exported before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    frames = speech(options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or Path(folder) / "mimi"
        if options.bundle is None:
            from edgekit.export import export

            made = export("mimi", ["onnx", "openvino"], bundle, weights="random", report=False)
            made.raise_for_status()
        runners = {
            "PyTorch": Eager(options.threads),
            "onnxruntime": Streamed(bundle, "onnxruntime", options.threads),
            "openvino": Streamed(bundle, "openvino", options.threads),
        }
        met = report(measure(runners, frames))
        ratio = max(overhead(runners[name], frames) for name in ("onnxruntime", "openvino"))
    met &= ratio <= LIMITS["overhead"]
    verdict = "within the limits" if met else "ABOVE A LIMIT"
    print(f"mimi: the session takes {100 * ratio:.2f} % beside the runtime; {verdict}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
