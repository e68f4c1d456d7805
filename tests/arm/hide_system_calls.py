"""Run a program to which Linux says that it lacks a few newer system calls.

proot (5.1, Debian 12's) translates the paths of the calls that it knows, and lets newer ones pass
with a path of the host. A C library that is told "no such call" takes the older one.
"""

import ctypes
import os
import platform
import struct
import sys

NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # of prctl(2)
HIDDEN = (439, 437)  # faccessat2, openat2: the same numbers on every processor
OLDER = {"x86_64": (332, 316), "aarch64": (291, 276)}  # statx, renameat2

# Classic BPF, as in linux/filter.h and linux/seccomp.h.
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 38  # with ENOSYS


def hide(numbers: tuple[int, ...]) -> None:
    """Let these system calls end with ENOSYS, for this process and all that it starts."""
    tests = [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code = [(LOAD, 0, 0, 0), *tests, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    text = b"".join(struct.pack("HBBI", *one) for one in code)
    memory = ctypes.create_string_buffer(text, len(text))
    program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(memory))
    library = ctypes.CDLL(None, use_errno=True)
    for call in ((NO_NEW_PRIVILEGES, 1, 0), (SECCOMP, FILTER, program)):
        if library.prctl(*call, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    hide(HIDDEN + OLDER[platform.machine()])
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
