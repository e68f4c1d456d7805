"""What ExecuTorch's log says of a failure; its error codes are numbers alone."""

from __future__ import annotations

import re
from typing import Final

_KERNEL: Final = re.compile(r"KernelCall failed at instruction \S+ in operator ([\w:.]+?):? ")
_CHECK: Final = re.compile(r"Check failed \(.*?\): (.+)")
_MISSING: Final = re.compile(r"Missing operator: \[\d+\] (\S+)")


def missing_kernels(log: str) -> tuple[str, ...]:
    """The operators that the runtime has no kernel for, each once."""
    return tuple(dict.fromkeys(_MISSING.findall(log)))


def kernel_reason(log: str) -> str:
    """The operator whose kernel failed, and the check that it failed; empty if none did."""
    kernel = _KERNEL.search(log)
    checks = _CHECK.findall(log)
    return f"{kernel[1]}: {checks[0] if checks else 'its kernel failed'}" if kernel else ""


def last_line(log: str) -> str:
    """The last thing that was said, without the place in the source before it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1].rpartition("] ")[2] if lines else "it gave no reason"
