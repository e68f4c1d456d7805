"""All-reduce by three algorithms over links with latency and little width, and which is chosen.

``python tests/bench/bench_allreduce.py [-o FOLDER]`` as root; takes some minutes. Prints a table,
writes ``allreduce.json`` and ``allreduce.svg``.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from delayed_links import address, delayed, inside

HERE = Path(__file__).parent
RANKS = (2, 4, 8)
SIZES = (2 << 10, 16 << 10, 64 << 10)
MORE = (2 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10)
#: Milliseconds each way, and bits a second; 0 for no limit.
LINKS = ((0, 0), (1, 0), (5, 0), (10, 0), (1, 100e6))


def run(ranks: int, link: tuple[float, float] | None, **options) -> dict:
    """Start all ranks, in namespaces if there is a link to emulate; what rank 0 found."""
    places = [address(i) if link else "127.0.0.1" for i in range(ranks)]
    with tempfile.TemporaryDirectory() as folder:
        told = {"addresses": places, "port": 21000, "folder": folder, "ways": ["plain"]}
        told |= {"sizes": SIZES, "rounds": 6, "seconds": 0.06, "auto": True, "algorithms": NAMES}
        told |= options
        started = []
        for rank in range(ranks):
            words = [sys.executable, str(HERE / "allreduce_rank.py")]
            words.append(json.dumps(told | {"rank": rank}))
            prefix = inside(rank) if link else []
            started.append(subprocess.Popen([*prefix, *words], stdout=subprocess.PIPE, text=True))
        out = [process.communicate(timeout=300)[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a rank failed")
    return json.loads(out[0])


def quietest(found: dict) -> dict[str, float]:
    """The least of each one's rounds: what else the machine does only ever adds."""
    return {key: min(rounds) for key, rounds in found["times"].items()}


def chosen(result: dict, size: int) -> str:
    """The algorithm that was taken for so many bytes, by what was measured at the start."""
    return [name for first, name in result["choices"]["plain"] if first <= size][-1]


def table(results: list[dict]) -> str:
    """One row a setting: milliseconds of star / doubling / ring, the one that was chosen bold."""
    sizes = [f"{size >> 10} KiB" for size in SIZES]
    lines = [
        f"| each way | width | ranks | {' | '.join(sizes)} |",
        "| --- " * (3 + len(SIZES)) + "|",
    ]
    for result in results:
        cells = [_cell(result, size) for size in SIZES]
        width = f"{result['bits'] / 1e6:.0f} Mbit/s" if result["bits"] else ""
        head = [f"{result['delay']} ms", width, str(result["ranks"])]
        lines.append(f"| {' | '.join([*head, *cells])} |")
    return "\n".join(lines)


def _cell(result: dict, size: int) -> str:
    times = {one: result["ms"].get(f"plain {one} {size}") for one in NAMES}
    digits = 2 if min(filter(None, times.values())) < 5 else 1
    taken = chosen(result, size)
    words = {one: f"{value:.{digits}f}" for one, value in times.items() if value}
    return " / ".join(f"**{word}**" if one == taken else word for one, word in words.items())


def judged(results: list[dict]) -> str:
    """How often the choice was within a tenth of the best, and where it was not."""
    missed, count = [], 0
    for result in results:
        for size in SIZES:
            times = {one: result["ms"].get(f"plain {one} {size}") for one in NAMES}
            ratio = times[chosen(result, size)] / min(filter(None, times.values()))
            count += 1
            if ratio > 1.1:
                where = f"{result['delay']} ms, {result['ranks']} ranks, {size >> 10} KiB"
                missed.append(f"{where}: {ratio:.2f}")
    return f"within 10 %: {count - len(missed)} of {count}. " + "; ".join(missed)


NAMES = ("star", "doubling", "ring")
COLOURS = {"star": "#1b6ca8", "doubling": "#3a9d5d", "ring": "#c0504d"}


def plot(results: list[dict]) -> str:
    """Milliseconds of 16 KiB by latency, one panel a number of ranks, as SVG."""
    panels = [_panel(results, ranks, 250 * place) for place, ranks in enumerate(RANKS)]
    legend = [
        f'<circle cx="{60 + 110 * i}" cy="222" r="4" fill="{colour}"/>'
        f'<text x="{70 + 110 * i}" y="226">{name}</text>'
        for i, (name, colour) in enumerate(COLOURS.items())
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 240" font-size="11"'
    paper = '<rect width="760" height="240" fill="white"/>'
    body = "\n".join([paper, *panels, *legend])
    return f'{head} font-family="sans-serif">\n{body}\n</svg>\n'


def _panel(results: list[dict], ranks: int, left: int) -> str:
    rows = [one for one in results if one["ranks"] == ranks and not one["bits"]]
    top = 150.0
    across = lambda delay: left + 45 + 19 * delay  # noqa: E731
    down = lambda ms: 190 - 160 * ms / top  # noqa: E731
    parts = [f'<text x="{left + 110}" y="18">{ranks} ranks, 16 KiB</text>']
    for ms in range(0, 151, 50):
        parts.append(f'<text x="{left + 12}" y="{down(ms) + 4}">{ms} ms</text>')
        parts.append(f'<path d="M{left + 45} {down(ms)}H{left + 240}" stroke="#ddd" fill="none"/>')
    for delay in (0, 5, 10):
        parts.append(f'<text x="{across(delay) - 10}" y="205">{delay} ms</text>')
    for name, colour in COLOURS.items():
        points = [
            (across(one["delay"]), down(one["ms"][f"plain {name} {16 << 10}"]))
            for one in rows
            if f"plain {name} {16 << 10}" in one["ms"]
        ]
        if points:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{line}" stroke="{colour}" fill="none"/>')
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points
            ]
    return "\n".join(parts)


def secured() -> dict:
    """What TLS costs at 8 ranks on loopback: both ways in one run, in turns."""
    found = quietest(
        run(8, None, ways=["plain", "tls"], auto=False, rounds=20, algorithms=["star"], sizes=MORE)
    )
    return {size: {way: found[f"{way} star {size}"] for way in ("plain", "tls")} for size in MORE}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--out", type=Path, default=Path())
    out = parser.parse_args().out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that namespaces are removed
    results = []
    for delay, bits in LINKS:
        for ranks in RANKS:
            with delayed(ranks, delay, bits / 8):
                found = run(ranks, (delay, bits))
            one = {
                "ranks": ranks,
                "delay": delay,
                "bits": bits,
                "ms": quietest(found),
                "rounds": found["times"],
            }
            results.append(one | {"choices": found["choices"]})
            print(table(results[-1:]), flush=True)
    tls = secured()
    (out / "allreduce.json").write_text(json.dumps({"links": results, "secured": tls}, indent=1))
    (out / "allreduce.svg").write_text(plot(results))
    print(table(results), judged(results), sep="\n\n")
    for size, both in tls.items():
        more = both["tls"] - both["plain"]
        print(f"8 ranks, {size >> 10} KiB: plain {both['plain']:.3f} ms, TLS {more:+.3f} ms")


if __name__ == "__main__":
    main()
