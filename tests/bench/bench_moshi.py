"""Mimi at its full size on a minute of speech: is it faster than real time, and than PyTorch?

Run: ``python tests/bench/bench_moshi.py [--threads N] [--seconds S] [--folder F]``. Frame by frame,
80 ms each, encoded and decoded at once, on two runtimes and in the same modules in eager PyTorch;
also on OpenVINO in bf16 but for the encoder, which does not count. Each has a process of
its own, since the threads of one engine spin on the cores that the next one needs; they take turns
of two seconds of speech, so that all see the same machine. The weights are those of the tests' hash
rule, with which codes change from frame to frame; trained ones take the same time. Prints per
runtime the median and the 99th percentile of a frame, the real-time factor, how much faster than
PyTorch it is (the median of the turns' own ratios), and what the streaming session takes beside the
runtime's own calls on the same arrays.

The limits, on two cores: one runtime is faster than real time, at least twice as fast as PyTorch,
and its 99th percentile is below 80 ms; the session takes 3 % at most.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("EDGEKIT_DATA", Path(__file__).parents[2].parent / "shared"))
FRAME_MS = 80.0
WARM_UP = 10
TURN = 25  # frames
CONTENDERS = {  # runtime and bundle
    "PyTorch": ("PyTorch", "fp32"),
    "onnxruntime": ("onnxruntime", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino bf16": ("openvino", "bf16"),
}
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


def seeded():
    """Full-size Mimi, ready for export."""
    import torch

    from edgekit import models

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from moshi_golden import fill

    with torch.no_grad():
        model = models.load("mimi", "random")
        fill(model.module)
    return model


class Eager:
    """The same modules, frame by frame in PyTorch."""

    def __init__(self, threads: int) -> None:
        import torch

        from edgekit.models.moshi.config import MIMI
        from edgekit.models.moshi.states import decoder_states, encoder_states

        torch.set_num_threads(threads)
        self._torch, self._network = torch, seeded().module
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


def serve(name: str, bundle: Path, threads: int, seconds: float) -> None:
    """A contender's process: for each line of two numbers, the frames from one to the other.

    Answers with milliseconds of each, those inside the runtime, and the codes.
    """
    frames = speech(seconds)
    runner = Eager(threads) if name == "PyTorch" else Streamed(bundle, name, threads)
    inside = Inside(runner) if isinstance(runner, Streamed) else None
    for pcm in frames[:WARM_UP]:
        runner(pcm)
    print("ready", flush=True)
    for line in sys.stdin:
        first, last = map(int, line.split())
        whole, bare, codes = [], [], []
        for pcm in frames[first:last]:
            before, start = inside.seconds if inside else 0.0, time.perf_counter()
            found = runner(pcm)
            whole.append(1000 * (time.perf_counter() - start))
            bare.append(1000 * ((inside.seconds if inside else 0.0) - before))
            codes.append(found.ravel().tolist())
        print(json.dumps([whole, bare, codes]), flush=True)


class Contender:
    """One of them, in its process."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = [sys.executable, __file__, "--serve", *map(str, (name, *arguments))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._process.stdout.readline().strip() != "ready":
            sys.exit(f"{name} did not begin")
        self.whole: list[float] = []
        self.bare: list[float] = []
        self.codes: list[list[int]] = []

    def turn(self, first: int, last: int) -> None:
        self._process.stdin.write(f"{first} {last}\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        for kept, part in zip((self.whole, self.bare, self.codes), found, strict=True):
            kept += part

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def report(contenders: dict[str, Contender]) -> bool:
    print(f"{'':14}{'p50 ms':>9}{'p99 ms':>9}{'of real time':>14}{'x PyTorch':>11}{'session':>9}")
    eager = contenders["PyTorch"]
    best, most = False, 0.0
    for name, one in contenders.items():
        middle, worst = np.percentile(one.whole, (50, 99))
        factor = float(np.mean(one.whole)) / FRAME_MS
        faster = float(np.median(turns(eager.whole) / turns(one.whole)))
        line = f"{name:14}{middle:9.2f}{worst:9.2f}{factor:14.3f}{faster:11.2f}"
        if name != "PyTorch":
            share = float(np.median(np.array(one.whole) / np.array(one.bare))) - 1
            most = max(most, share)
            counts = CONTENDERS[name][1] == "fp32"
            best |= counts and factor < 1 and faster >= LIMITS["speedup"] and worst < LIMITS["p99"]
            line += f"{share:9.2%}"
        print(line)
    return best and most <= LIMITS["overhead"]


def turns(times: list[float]) -> np.ndarray:
    """The median of each turn."""
    return np.array([np.median(times[i : i + TURN]) for i in range(0, len(times), TURN)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--folder", type=Path, help="keep the exported bundles here")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        runtime, bundle = options.serve
        serve(runtime, Path(bundle), options.threads, options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for precision, targets in (("fp32", ["onnx", "openvino"]), ("bf16", ["openvino"])):
            if not (folder / precision).exists():
                export_mimi(folder / precision, targets, precision)
        met = compete(folder, options)
    print(f"mimi: {'within the limits' if met else 'ABOVE A LIMIT'}")
    return 0 if met else 1


def export_mimi(out: Path, targets: list[str], precision: str) -> None:
    """A bundle, verified."""
    from edgekit.export import export

    made = export(seeded(), targets, out, precision=precision, report=False)
    made.raise_for_status()


def compete(folder: Path, options: argparse.Namespace) -> bool:
    """All of them in turns; whether the limits are kept."""
    shared = ("--threads", options.threads, "--seconds", options.seconds)
    contenders = {
        label: Contender(runtime, folder / precision, *shared)
        for label, (runtime, precision) in CONTENDERS.items()
    }
    count = len(speech(options.seconds))
    names = list(contenders)
    for number, first in enumerate(range(0, count, TURN)):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            contenders[name].turn(first, min(first + TURN, count))
    wanted = np.array(contenders["PyTorch"].codes)
    for name, one in contenders.items():
        one.close()
        if name != "PyTorch":
            same = float((np.array(one.codes) == wanted).mean())
            print(f"{name}: {same:.2%} of the codes are PyTorch's ({count} frames)")
    print(f"{len(np.unique(wanted, axis=0))} frames of PyTorch's have codes of their own")
    return report(contenders)


if __name__ == "__main__":
    sys.exit(main())
