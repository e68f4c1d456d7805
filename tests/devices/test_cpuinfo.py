"""What ``/proc/cpuinfo`` and ``/sys`` say, from the texts of several machines."""

from pathlib import Path

import pytest

from edgekit.devices import cpuinfo

ARM = """processor\t: {core}
BogoMIPS\t: 49.15
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x2
CPU part\t: {part}
CPU revision\t: 0
"""
V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
PHONE = "\n".join(
    ARM.format(core=core, features=f"{V82} asimddp", part=part)
    for core, part in enumerate(["0xd05"] * 4 + ["0xd41"] * 2 + ["0xd44"] * 2)
)
PI4 = "\n".join(
    ARM.format(core=core, features="fp asimd evtstrm crc32 cpuid", part="0xd08")
    for core in range(4)
) + ("\nRevision\t: d03115\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n")
LAPTOP = "\n".join(
    f"processor\t: {core}\nvendor_id\t: GenuineIntel\n"
    "model name\t: 11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz\n"
    "flags\t\t: fpu avx f16c fma avx2 avx512f avx512_vnni\n"
    for core in range(4)
)


def system(folder: Path, clocks: dict[int, int], siblings: dict[int, str]) -> Path:
    for core, clock in clocks.items():
        place = folder / f"cpu{core}/cpufreq"
        place.mkdir(parents=True)
        (place / "cpuinfo_max_freq").write_text(f"{clock}\n")
    for core, text in siblings.items():
        place = folder / f"cpu{core}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{text}\n")
    return folder


def test_a_phone_has_three_kinds_of_cores(tmp_path):
    blocks = cpuinfo.read_fields(PHONE, range(8))
    clocks = {
        core: (1_803_000, 2_348_000, 2_850_000)[core > 3 and 1 + (core > 5)] for core in range(8)
    }
    found = cpuinfo.core_kinds(blocks, system(tmp_path, clocks, {}))
    assert [(c.kind, c.count, c.clock_mhz) for c in found] == [
        ("Cortex-X1", 2, 2850),
        ("Cortex-A78", 2, 2348),
        ("Cortex-A55", 4, 1803),
    ]
    assert cpuinfo.extensions(list(blocks.values())) == ("neon", "fp16", "dotprod")


def test_a_board_without_fp16_arithmetic(tmp_path):
    blocks = cpuinfo.read_fields(PI4, range(4))
    assert len(blocks) == 4  # the block of the board is no core
    assert cpuinfo.extensions(list(blocks.values())) == ("neon",)
    (core,) = cpuinfo.core_kinds(blocks, tmp_path)
    assert (core.kind, core.count, core.clock_mhz) == ("Cortex-A72", 4, None)


@pytest.mark.parametrize("siblings", [("0,2", "1,3", "0,2", "1,3"), ("0-1", "0-1", "2-3", "2-3")])
def test_threads_that_share_a_core_are_one(tmp_path, siblings):
    blocks = cpuinfo.read_fields(LAPTOP, range(4))
    place = system(tmp_path, dict.fromkeys(range(4), 4_700_000), dict(enumerate(siblings)))
    (core,) = cpuinfo.core_kinds(blocks, place)
    assert core.kind == "11th Gen Intel Core i7-1165G7"
    assert (core.count, core.clock_mhz) == (2, 4700)
    assert cpuinfo.extensions(list(blocks.values())) == (
        *("avx2", "fma", "f16c"),
        *("avx512", "avx512_vnni"),
    )


def test_only_the_cores_that_may_be_used_count(tmp_path):
    blocks = cpuinfo.read_fields(LAPTOP, {2, 3, 99})
    assert set(blocks) == {2, 3}
    place = system(tmp_path, {}, {2: "0,2", 3: "1,3"})  # core 0 itself is somebody else's
    (core,) = cpuinfo.core_kinds(blocks, place)
    assert core.count == 2


def test_an_extension_counts_if_every_core_has_it():
    blocks = [{"Features": "asimd asimdhp"}, {"Features": "asimd"}]
    assert cpuinfo.extensions(blocks) == ("neon",)
    assert cpuinfo.extensions([]) == ()


def test_processors_without_a_name():
    assert cpuinfo.core_kinds({0: {"CPU implementer": "0x61", "CPU part": "0x022"}})[0].kind == (
        "implementer 0x61, part 0x022"
    )
    assert cpuinfo.core_kinds({0: {}})[0].kind == "unknown"
    assert cpuinfo.tidy("Intel(R) Xeon(R) CPU @ 2.20GHz") == "Intel Xeon"
    assert cpuinfo.tidy("CPU @ 2GHz") == "CPU @ 2GHz"
