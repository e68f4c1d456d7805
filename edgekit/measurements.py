"""What was measured where: a small store on this machine, one row a measurement.

``edgekit bench --save`` writes it; ``runtime="auto"`` asks it which runtime is fastest
here, and the report shows what it holds. It is a cache of facts that can be measured
again: whoever only reads (:func:`fastest`, :func:`rows_for`) treats an unreadable store
as an empty one, and only :func:`save` complains.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceError

STORE_NAME = "measurements.sqlite3"
LOCK_WAIT_S = 5.0

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurement (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,      -- of the bundle
    host TEXT NOT NULL,        -- fingerprint
    runtime TEXT NOT NULL,
    threads INTEGER,           -- NULL: the runtime's own default
    precision TEXT,
    p50_ms REAL NOT NULL,      -- end to end
    figures TEXT NOT NULL,     -- the whole row of `edgekit bench --json`
    machine TEXT NOT NULL,     -- the description of the host, with tool versions
    measured_at TEXT NOT NULL  -- UTC
);
CREATE INDEX IF NOT EXISTS measurement_of ON measurement (digest, host);
CREATE TABLE IF NOT EXISTS bundle (
    digest TEXT PRIMARY KEY,
    model TEXT NOT NULL        -- its name, to find one model's bundles again
);
CREATE TABLE IF NOT EXISTS precisions (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,      -- of the quantised bundle
    host TEXT NOT NULL,        -- fingerprint
    document TEXT NOT NULL     -- rows of all precisions, measured together, and the host
);
"""


def store_path() -> Path:
    """Where the measurements are kept (``EDGEKIT_HOME`` moves it)."""
    from edgekit.paths import state_dir

    return state_dir() / STORE_NAME


def host_fingerprint() -> str:
    """A short name for this kind of machine: its processor, cores and architecture.

    Two boards of one model share it, and their timings; a new kernel or library does not
    change it.
    """
    facts = f"{processor_name()}|{os.cpu_count()}|{platform.machine()}|{platform.system()}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def processor_name() -> str:
    """The board or the processor in words, as far as the system tells."""
    with contextlib.suppress(OSError):  # boards that boot from a device tree have a name
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n ")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def save(
    digest: str,
    rows: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    host: str | None = None,
    model: str | None = None,
) -> None:
    """Keep the rows of one benchmark of the bundle with this digest.

    Args:
        rows: as in ``edgekit bench --json``; each has ``runtime``, ``threads``,
            ``precision`` and ``latency_ms.p50``.
        machine: the host's description, which the figures depend on.
        host: the fingerprint of another machine, where they were measured; None: this one's.
        model: the name of the bundle's model, under which :func:`history` finds it.

    Raises:
        DeviceError: the store cannot be written (locked, damaged, no space).
    """
    records = [_record(digest, row, machine, host or host_fingerprint()) for row in rows]
    _insert(
        "measurement (digest, host, runtime, threads, precision, p50_ms, figures, machine,"
        " measured_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        records,
    )
    if model is not None:
        _insert("bundle (digest, model) VALUES (?, ?) ON CONFLICT DO NOTHING", [(digest, model)])


def _insert(into: str, records: Sequence[tuple]) -> None:
    path = store_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _connect(path) as connection, connection:
            connection.executescript(_SCHEMA)
            connection.executemany(f"INSERT INTO {into}", records)
    except (sqlite3.Error, OSError) as error:
        raise DeviceError(
            f"cannot write the measurements to {path}",
            str(error),
            "if it is damaged, remove that file and measure again",
        ) from error


def _record(digest: str, row: Mapping[str, Any], machine: Mapping[str, Any], host: str) -> tuple:
    return (
        digest,
        host,
        row["runtime"],
        row["threads"],
        row["precision"],
        row["latency_ms"]["p50"],
        json.dumps(row, allow_nan=False),
        json.dumps(machine, allow_nan=False),
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def rows_for(digest: str) -> list[dict[str, Any]]:
    """The latest figures of a bundle per host, runtime and number of threads.

    Returns:
        rows as in ``edgekit bench --json``, each with ``host`` (the machine's description),
        ``host_fingerprint`` and ``measured_at`` added; this host's first, then the fastest.
    """
    query = (
        "SELECT figures, machine, host, measured_at FROM measurement WHERE id IN"
        " (SELECT max(id) FROM measurement WHERE digest = ? GROUP BY host, runtime, threads)"
        " ORDER BY host != ?, host, p50_ms"
    )
    found = _select(query, (digest, host_fingerprint()))
    try:
        return [_joined(*record) for record in found]
    except ValueError as error:
        _log.warning("ignoring the measurements in %s: %s", store_path(), error)
        return []


def history() -> list[dict[str, Any]]:
    """Every measurement that was saved, of all bundles and machines, the oldest first.

    Returns:
        rows as of :func:`rows_for`, each with ``digest`` and ``model`` (None where it is not
        known) added.
    """
    known = "SELECT name FROM sqlite_master WHERE name = 'bundle'"
    model = "(SELECT model FROM bundle WHERE digest = m.digest)" if _select(known, ()) else "NULL"
    query = (
        f"SELECT figures, machine, host, measured_at, digest, {model}"  # noqa: S608 - ours
        " FROM measurement AS m ORDER BY measured_at, id"
    )
    try:
        return [
            {**_joined(*record[:4]), "digest": record[4], "model": record[5]}
            for record in _select(query, ())
        ]
    except ValueError as error:
        _log.warning("ignoring the measurements in %s: %s", store_path(), error)
        return []


def _joined(figures: str, machine: str, host: str, measured_at: str) -> dict[str, Any]:
    return {
        **json.loads(figures),
        "host": json.loads(machine),
        "host_fingerprint": host,
        "measured_at": measured_at,
    }


def fastest(digest: str, threads: int | None = None) -> tuple[str, int | None] | None:
    """Which runtime answered first on this kind of machine, by median end-to-end latency.

    Of each runtime and number of threads the latest measurement counts.

    Args:
        threads: consider only measurements with that many threads; None: any.

    Returns:
        the runtime's name and its number of threads, or None where nothing was measured.
    """
    query = (
        "SELECT runtime, threads FROM measurement WHERE id IN"
        " (SELECT max(id) FROM measurement WHERE digest = ? AND host = ?"
        " GROUP BY runtime, threads)"
        " AND (? IS NULL OR threads = ?) ORDER BY p50_ms LIMIT 1"
    )
    found = _select(query, (digest, host_fingerprint(), threads, threads))
    return found[0] if found else None


def save_precisions(
    digest: str, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]
) -> None:
    """Keep the timings of one network in several precisions, measured together.

    Args:
        digest: of the bundle that the comparison belongs to.
        rows: as in ``edgekit bench --json``, each with its ``variant``.

    Raises:
        DeviceError: the store cannot be written.
    """
    document = json.dumps({"rows": list(rows), "host": machine}, allow_nan=False)
    record = (digest, host_fingerprint(), document)
    _insert("precisions (digest, host, document) VALUES (?, ?, ?)", [record])


def precisions_for(digest: str) -> dict[str, Any] | None:
    """The latest timings of :func:`save_precisions` for a bundle, of this host if there are
    such: ``rows`` and ``host``."""
    query = "SELECT document FROM precisions WHERE digest = ? ORDER BY host != ?, id DESC LIMIT 1"
    found = _select(query, (digest, host_fingerprint()))
    try:
        return json.loads(found[0][0]) if found else None
    except ValueError as error:
        _log.warning("ignoring the measurements in %s: %s", store_path(), error)
        return None


def _select(query: str, values: tuple) -> list[tuple]:
    path = store_path()
    if not path.is_file():
        return []
    try:
        with _connect(path) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        _log.warning("ignoring the measurements in %s: %s", path, error)
        return []


@contextlib.contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, timeout=LOCK_WAIT_S)) as connection:
        yield connection
