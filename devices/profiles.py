"""What edgekit knows of a device, and what it exports for it unless told otherwise.

A profile is one TOML file. Those that ship are in ``devices/profiles/``, each with its
sources; a user's own is a path to such a file. ``docs/devices.md`` describes the fields.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import InputError, UsageError
from edgekit.manifest import DeviceHint

MAX_BYTES: Final = 1 << 20  # of a profile; those that ship have two thousand

Kind = Literal["board", "phone", "laptop", "computer", "gpu"]
Target = Literal["onnx", "openvino", "executorch", "coreml", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16"]
Figure = Literal[
    "memory", "bandwidth", "cores", "clock", "isa", "accelerators", "capability", "system"
]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Cores(_Part):
    """Cores of one kind. ``clock_mhz`` is the highest clock; None where it is not published."""

    kind: Text
    count: Count
    clock_mhz: Count | None = None


class Processor(_Part):
    """A processor: its kinds of cores, fastest first, and what all of them can do.

    ``isa`` names the extensions that matter to neural networks: ``neon``, ``fp16`` and
    ``bf16`` (arithmetic, not storage), ``dotprod``, ``i8mm``, ``avx2``, ``avx512``, …
    """

    name: Text
    cores: Annotated[tuple[Cores, ...], Field(min_length=1)]
    isa: tuple[Text, ...] = ()


class Accelerator(_Part):
    """What computes beside the processor; ``compute_capability`` is CUDA's, such as 8.9."""

    kind: Literal["gpu", "npu"]
    name: Text
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = None


class Defaults(_Part):
    """What ``edgekit export --device`` takes where the user says nothing.

    ``targets`` are in order of preference, ``threads`` None leaves it to the runtime, and
    ``why`` gives the reasons.
    """

    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    precision: Precision
    threads: Count | None = None
    why: Text


class System(_Part):
    """What its programs run on, for ``edgekit pack``: which wheels fit.

    ``glibc`` is the oldest that is to be expected; ``python`` is the version of the system's.
    """

    os: Text
    machine: Literal["aarch64", "x86_64"]
    glibc: Annotated[str, Field(pattern=r"^2\.\d+$")]
    python: Annotated[str, Field(pattern=r"^3\.\d+$")]


class Measured(_Part):
    """What ``edgekit devices probe`` measured, at the moment when it did.

    Bandwidths are in bytes a second: of memory, what NumPy copies with ``memory_threads``
    threads, read and written bytes together; of the disk that holds edgekit's own folder, of
    one large file past the system's cache. ``temperature_c`` is of the hottest thermal zone
    after that, ``throttled`` whether the system says that heat or power holds it back. None is
    what could not be measured.
    """

    memory_bandwidth: Count | None = None
    memory_threads: Count | None = None
    disk_read_bandwidth: Count | None = None
    disk_write_bandwidth: Count | None = None
    governor: Text | None = None
    temperature_c: float | None = None
    throttled: bool | None = None


class Source(_Part):
    """Where a fact is from: ``what`` is said there, ``where`` it is.

    ``gives`` names the figures of the profile that it is the source of.
    """

    what: Text
    where: Text
    gives: tuple[Figure, ...] = ()


class Profile(_Part):
    """A device. ``memory_bytes`` is what its programs share; of a graphics card, its own.

    ``memory_bandwidth`` is the peak in bytes a second, None where nobody publishes it.
    ``processor`` is None for a graphics card, which sits in any computer; ``system`` None where
    nothing can be packed for it, ``measured`` where nobody has.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    title: Text
    kind: Kind
    memory_bytes: Count
    memory_bandwidth: Count | None = None
    processor: Processor | None = None
    accelerators: tuple[Accelerator, ...] = ()
    system: System | None = None
    measured: Measured | None = None
    export: Defaults
    notes: tuple[Text, ...] = ()
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.export.targets)) < len(self.export.targets):
            raise ValueError("export.targets names a target twice")
        if self.processor is None and not self.accelerators:
            raise ValueError("there is neither a processor nor an accelerator")
        return self

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes of the targets, preferred first."""
        from ..runtimes import registry

        return tuple(registry.for_target(target).name for target in self.export.targets)

    def figures(self) -> tuple[Figure, ...]:
        """The figures that it states, for each of which a source can be named."""
        processor = self.processor
        states: dict[Figure, object] = {
            "memory": self.memory_bytes,
            "bandwidth": self.memory_bandwidth,
            "cores": processor,
            "clock": processor and any(cores.clock_mhz for cores in processor.cores),
            "isa": processor and processor.isa,
            "accelerators": self.accelerators,
            "capability": any(one.compute_capability for one in self.accelerators),
            "system": self.system,
        }
        return tuple(name for name, stated in states.items() if stated)

    def source_of(self, figure: Figure) -> Source | None:
        """Where a figure is from; None if the profile does not say."""
        return next((source for source in self.sources if figure in source.gives), None)

    def hint(self) -> DeviceHint:
        """What a bundle made for this device carries with it."""
        return DeviceHint(name=self.name, runtimes=self.runtimes, threads=self.export.threads)

    def remarks(self) -> tuple[str, ...]:
        """The notes, and what its user has yet to do on the device."""
        return (*self.notes, *(self.build_remarks() if "tensorrt" in self.export.targets else ()))

    def build_remarks(self) -> tuple[str, ...]:
        """What has to be built on the device, where TensorRT is a target."""
        # Not in the files: for which GPUs engines are compiled ahead is not theirs to say.
        from ..runtimes.tensorrt_build import CAPABILITIES

        found = [a.compute_capability for a in self.accelerators if a.compute_capability]
        lacking = [capability for capability in found if capability not in CAPABILITIES]
        return tuple(
            f"TensorRT engines are compiled ahead for compute capabilities "
            f"{', '.join(CAPABILITIES)} only, and this device has {capability}: run "
            "edgekit build BUNDLE on it once, which compiles with the TensorRT installed there"
            for capability in lacking
        )


def names() -> list[str]:
    """The profiles that ship, by name."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir())


def profile(name: str) -> Profile:
    """A profile that ships, or the one in a TOML file.

    Args:
        name: a name of :func:`names`, or a path: something with a ``/`` or a ``.toml`` end.

    Raises:
        UsageError: there is no profile of that name.
        InputError: the file cannot be read, is no TOML, or is no profile.
    """
    if name.endswith(".toml") or Path(name).name != name:
        return read(Path(name))
    if name in (known := names()):
        return parse((_folder() / f"{name}.toml").read_bytes(), f"{name}.toml")
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    why = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(known)}"
    raise UsageError(
        f"there is no device {name!r}", why, "edgekit devices, or give a path ending in .toml"
    )


def read(path: Path) -> Profile:
    """The profile in a file; errors as in :func:`profile`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"the device profile {path} cannot be read", error.strerror or "", "edgekit devices"
        ) from error
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Profile:
    """A profile from the bytes of a TOML file.

    Args:
        where: the file's name, for the message.

    Raises:
        InputError: it is too large, no TOML, or a key is missing, unknown or wrong.
    """
    wrong = f"the device profile {where} is not valid"
    if len(data) > MAX_BYTES:
        raise InputError(wrong, f"it is larger than {MAX_BYTES} bytes")
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(wrong, f"no TOML: {error}") from error
    try:
        # Through JSON, where strict typing still lets a list become a tuple.
        return Profile.model_validate_json(json.dumps(found, default=str))
    except ValidationError as error:
        raise InputError(wrong, _first(error), "docs/devices.md describes the keys") from None


def _first(error: ValidationError) -> str:
    """The first of pydantic's problems: the key, and what is wrong with it."""
    problem: Any = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    text = {
        "extra_forbidden": "there is no such key",
        "missing": "it is missing",
        "string_pattern_mismatch": f"{problem['input']!r} is not of its form",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return f"{key}: {text}{more}" if key else f"{text}{more}"


def _folder() -> Traversable:
    return importlib.resources.files(__package__) / "profiles"
