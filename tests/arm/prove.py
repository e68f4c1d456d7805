"""Prove kits on an emulated 64-bit Arm processor: ``make arm``.

Makes a Debian 12 for Arm in ``build/arm`` (debootstrap), exports bundles, packs each for a
Raspberry Pi 5, installs the kit there without a network, and has ``edgekit verify`` compare every
artifact with PyTorch's answers. Programs run under qemu's user emulation, inside proot, which
needs neither a privileged container nor a registered binary format.

It proves that the Arm binaries load and compute what PyTorch computes. It says nothing on how
fast a board is: no time is measured, and no emulated one is shown.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "build" / "arm"
ROOT = WORK / "rootfs"
MODELS = ("physioser-vocal", "cpubone-b0")
DEVICE = "rpi5"
TARGETS = ("onnx", "executorch")
CPU = "cortex-a76"  # the Raspberry Pi 5's
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "python3,python3-venv,libstdc++6,libgomp1"
LIMIT_S = 1200

# Command -> the Debian package that has it.
NEEDED = {
    "debootstrap": "debootstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "proot": "proot",
    "unshare": "util-linux",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
}

# ONNX Runtime looks up its processor there, and ends with a fault if it finds none. One core alone:
# programs with many threads come to a stop now and then under qemu 7.2 and proot.
CORE = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd aes sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""


def main(names: Sequence[str]) -> int:
    """Prove the bundles of these models (all of :data:`MODELS` by default)."""
    os.chdir(REPOSITORY)
    lacking = {command: package for command, package in NEEDED.items() if not shutil.which(command)}
    if lacking:
        print(
            f"not installed: {', '.join(lacking)}. "
            f"Next: sudo apt-get install {' '.join(lacking.values())}",
            file=sys.stderr,
        )
        return 3
    make_root()
    rows = [row for name in names or MODELS for row in prove(name)]
    print("\nOn an emulated Arm processor, without a network and without torch:")
    for name, graph, target, nmse in rows:
        print(f"  {name:16s} {graph:8s} {target:11s} ran, NMSE {nmse:.1e} from PyTorch")
    return 0


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def make_root() -> None:
    """A root with Python; kept from one time to the next."""
    WORK.mkdir(parents=True, exist_ok=True)
    if (ROOT / ".made").is_file():
        return
    say(f"Making {ROOT.relative_to(REPOSITORY)} (once)")
    shutil.rmtree(ROOT, ignore_errors=True)
    as_root = [] if os.getuid() == 0 else ["fakeroot"]
    options = ["--foreign", "--arch=arm64", "--variant=minbase", f"--include={PACKAGES}"]
    call(*as_root, "debootstrap", *options, "bookworm", str(ROOT), MIRROR)
    # Unpacked and not configured: that would run programs of the other processor as root.
    for package in sorted((ROOT / "var/cache/apt/archives").glob("*.deb")):
        call("dpkg-deb", "-x", str(package), str(ROOT))
    for folder in ("proc", "dev", "kit", "sys/devices/system/cpu"):
        (ROOT / folder).mkdir(exist_ok=True, parents=True)
    for name in ("possible", "present", "online"):
        (ROOT / "sys/devices/system/cpu" / name).write_text("0\n")
    (WORK / "cpuinfo").write_text(CORE)
    (ROOT / ".made").touch()


def prove(name: str) -> list[tuple[str, str, str, float]]:
    """Export, pack, install and verify one model; what was found of each artifact."""
    bundle, kit = WORK / f"{name}.edgekit", WORK / f"{name}-kit"
    shutil.rmtree(kit, ignore_errors=True)
    shutil.rmtree(ROOT / "opt/edgekit", ignore_errors=True)
    say(f"{name}: exporting")
    targets = [word for target in TARGETS for word in ("--target", target)]
    edgekit("export", name, *targets, "--device", DEVICE, "--no-report", "-o", str(bundle))
    say(f"{name}: packing for {DEVICE}")
    edgekit("pack", str(bundle), "--for", DEVICE, "-o", str(kit))
    check_kit(kit)
    say(f"{name}: installing and verifying under emulation")
    emulate(kit, "/bin/sh", "/kit/install.sh")
    program = "import importlib.util as u; print([m for m in ('torch', 'onnx') if u.find_spec(m)])"
    expect(emulate(kit, "/opt/edgekit/venv/bin/python", "-c", program).strip() == "[]", "no torch")
    place = f"/opt/edgekit/{name}/current.edgekit"
    said = emulate(kit, "/opt/edgekit/venv/bin/edgekit", "verify", "--json", "--quiet", place)
    return [found(name, one) for one in json.loads(said)["artifacts"]]


def found(name: str, artifact: dict) -> tuple[str, str, str, float]:
    """One artifact's row; it must have run."""
    check = artifact["verify"]
    what = f"{name} {artifact['graph']} {artifact['target']}"
    expect(artifact["status"] == "ok" and check["level"] == "ran", f"{what} runs: {artifact}")
    return name, artifact["graph"], artifact["target"], float(check["metrics"]["nmse"])


def check_kit(kit: Path) -> None:
    """The kit holds no exporter, and every file that it lists."""
    names = [path.name.lower() for path in (kit / "wheels").iterdir()]
    expect(not any(name.startswith(("torch", "onnx-", "executorch")) for name in names), "no torch")
    expect(any(name.startswith("edgekit_toolkit_executorch") for name in names), "the runner")
    call("sha256sum", "--quiet", "-c", "SHA256SUMS", cwd=kit)


def emulate(kit: Path, *command: str) -> str:
    """Run a command of the Arm root without a network; its standard output."""
    hide = [sys.executable, str(Path(__file__).with_name("hide_system_calls.py"))]
    proot = [
        *("proot", "-q", f"qemu-aarch64-static -cpu {CPU}", "-r", str(ROOT), "-w", "/"),
        *("-b", "/proc", "-b", "/dev"),
        *("-b", f"{WORK / 'cpuinfo'}:/proc/cpuinfo", "-b", f"{kit}:/kit"),
    ]
    clean = [
        "/usr/bin/env",
        "-i",
        "PATH=/usr/bin:/bin",
        "HOME=/root",
        "LANG=C.UTF-8",
        "OMP_NUM_THREADS=1",
    ]
    one_core = ["taskset", "-c", "0"]
    return call(*one_core, "unshare", "-rn", *hide, *proot, *clean, *command)


def edgekit(*arguments: str) -> None:
    call(str(Path(sys.executable).with_name("edgekit")), *arguments)


def call(*command: str, cwd: Path | None = None) -> str:
    """Run a command; its standard output. Ends the program with what it said if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"{command[0]} did not end in {LIMIT_S} s: run make arm again")
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(f"{command[0]} ended with {done.returncode}")
    return done.stdout


def expect(true: bool, what: str) -> None:
    if not true:
        sys.exit(f"not so: {what}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
