"""What a device needs: no torch, no onnx, no exporter."""

import subprocess
import sys
import textwrap

import numpy as np
from PIL import Image

from edgekit.manifest import TaskInfo

from .conftest import SIDE

PROGRAM = """
import sys

FORBIDDEN = {"torch", "onnx", "openvino", "executorch", "coremltools", "timm", "transformers",
             "tensorrt", "tensorrt_rtx", "onnxscript", "scipy", "torchvision"}

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, Forbid())

from edgekit.bundle import Bundle
from edgekit.runtimes import available, load, tasks

with Bundle.open(sys.argv[1]) as bundle:
    assert available(bundle) == ["onnxruntime"], available(bundle)
    with load(bundle, threads=1) as session:
        print(tasks.for_bundle(bundle, session)(sys.argv[2]).top[0].label)
loaded = FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
"""


def test_a_picture_is_labelled(runtime_bundle, tmp_path, classifier):
    task = TaskInfo(
        kind="classification",
        params={"resolution": SIDE, "mean": [0, 0, 0], "std": [1, 1, 1], "labels": "labels.txt"},
    )
    path = runtime_bundle(
        "onnxruntime",
        "openvino",
        task=task,
        files={"labels.txt": b"a\nb\nc\nd\n"},
        name="b.edgekit",
    )
    Image.new("RGB", (50, 40), (255, 128, 0)).save(tmp_path / "orange.png")
    flat = np.broadcast_to(np.array([1, 128 / 255, 0]).reshape(1, 3, 1, 1), (1, 3, SIDE, SIDE))
    want = "abcd"[int(classifier(flat).argmax())]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), path, tmp_path / "orange.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{want}\n", "", 0)
