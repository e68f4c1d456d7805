"""What a browser adds to a model: from a camera's frame to its labels on the page.

Run: ``python tests/bench/bench_demo.py [BUNDLE…]``. ``edgekit demo classify`` runs in a process of
its own and looks at a photograph that headless Chromium's camera shows at 640x480, 30 frames a
second; of each bundle and runtime the median of the whole way is held against the median of the
model's own time in the same seconds. The limit is 15 ms more. Without bundles, EfficientNet-Lite0
and CPUBone-B0 are exported first. It needs ``chromium`` and ``playwright``.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

EDGEKIT = Path(sys.executable).with_name("edgekit")
LIMIT = 15.0  # ms
SECONDS = 15.0
SIZE = (640, 480)
MODELS = ("efficientnet-lite0", "cpubone-b0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    if shutil.which("chromium") is None:
        print("skipped: no chromium here")
        return 0
    print(f"{'bundle':22}{'on':20}{'model':>9}{'whole way':>11}{'added':>8}{'frames/s':>10}")
    within = True
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        film = _film(place / "camera.y4m")
        for bundle in options.bundles or [_export(name, place / name) for name in MODELS]:
            for row in _measure(bundle, film, options.threads):
                added = row["end"] - row["p50"]
                within &= added <= LIMIT
                told = f"{bundle.name:22}{row['on']:20}{row['p50']:9.2f}{row['end']:11.2f}"
                print(f"{told}{added:8.2f}{row['fps']:10.1f}", flush=True)
    print(f"within {LIMIT:g} ms" if within else f"MORE THAN {LIMIT:g} ms")
    return 0 if within else 1


def _export(name: str, out: Path) -> Path:
    command = ["export", name, "--target", "onnx", "--target", "openvino", "--no-report"]
    subprocess.run([EDGEKIT, *command, "-q", "-o", out], check=True)
    return out


def _film(path: Path) -> Path:
    from PIL import Image

    from edgekit.devices.sample_input import installed_photograph
    from tests.apps.browser import write_y4m

    with Image.open(installed_photograph()) as image:
        frame = image.convert("RGB").resize(SIZE)
    # Two frames that differ: equal ones might be spared on the way.
    return write_y4m(path, [frame, frame.rotate(1)])


def _measure(bundle: Path, film: Path, threads: str):
    """For each runtime: what it is called, and its medians (ms) over the same seconds."""
    from tests.apps.browser import chromium, opened

    command = [EDGEKIT, "demo", "classify", bundle, "--port", "0"]
    server = subprocess.Popen([*command, "--threads", threads], stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
        with chromium(camera=film) as browser:
            page = opened(browser, url)
            page.wait_for_selector("#labels .bar")
            for index, name in enumerate(_status(url)["choices"]):
                page.select_option("#runtime", index=index)
                time.sleep(SECONDS)
                figures = _status(url)["figures"]
                end = float(page.inner_text("#end").removesuffix(" ms"))
                yield {"on": name, "end": end, "p50": figures["p50"], "fps": figures["fps"]}
    finally:
        server.terminate()
        server.wait(timeout=20)


def _status(url: str) -> dict:
    with urllib.request.urlopen(url + "status", timeout=10) as answer:  # noqa: S310 -- its own
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
