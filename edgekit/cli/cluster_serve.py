"""``edgekit cluster serve``, ``invite``, ``worker``, ``chat``, ``status`` and ``devices``."""

import contextlib
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output, size, table
from edgekit.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from edgekit.devices.cluster.formation import FormSettings
    from edgekit.devices.cluster.hub import HubSettings
    from edgekit.devices.cluster.serving import Serving

State = Annotated[
    Path | None, typer.Option("--state", help="Folder of this device's key and what it knows.")
]
Threads = Annotated[int | None, typer.Option("--threads", "-t", min=1, help="Of computing.")]
Budget = Annotated[
    str | None,
    typer.Option("--memory-budget", help="Bytes of the whole process at most, e.g. 256MiB."),
]
Url = Annotated[str, typer.Option("--url", help="Of the hub's HTTP endpoint.")]
Key = Annotated[
    str, typer.Option("--api-key", envvar="EDGEKIT_API_KEY", help="That clients must show.")
]
URL = "http://127.0.0.1:8710"


def register(app: typer.Typer) -> None:
    """Add these commands to ``edgekit cluster``."""
    for name, command in _COMMANDS.items():
        app.command(name)(command)


def serve(
    splits: Annotated[
        list[Path],
        typer.Argument(metavar="SPLIT...", help="Of one model, over different numbers of nodes."),
    ],
    listen: Annotated[
        str, typer.Option("--listen", help="Where workers connect: HOST:PORT.")
    ] = "0.0.0.0:7710",
    http: Annotated[
        str, typer.Option("--http", help="Where programs connect: HOST:PORT; 0 takes a free one.")
    ] = "127.0.0.1:8710",
    api_key: Key = "",
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model, for clients; default: SPLIT's.")
    ] = None,
    context: Annotated[int, typer.Option("--context", min=16, help="Tokens that fit.")] = 2048,
    wire: Annotated[
        str, typer.Option("--wire", help="Activations between nodes: float32 or float16.")
    ] = "float32",
    collective: Annotated[
        str, typer.Option("--collective", help="auto (measured), star, doubling or ring.")
    ] = "auto",
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.5, help="Seconds until a silent node is lost.")
    ] = 10.0,
    grace: Annotated[
        float, typer.Option("--grace", min=0, help="Seconds until a smaller split is taken.")
    ] = 20.0,
    waiting: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait.")] = 8,
    memory_budget: Budget = None,
    threads: Threads = None,
    state: State = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve a split model: be rank 0, take in workers, answer OpenAI's clients.

    Only this machine can ask unless --http says otherwise, and then only with --api-key. Workers
    need a join code; one for each that is missing is printed.
    """
    from edgekit.devices.cluster import formation, serving

    with Output(json, quiet) as out, _lines(out) as say, serving.lines_of_log(say):
        _one_of(wire, "--wire", _WIRES)
        _one_of(collective, "--collective", _COLLECTIVES)
        found = serving.open_splits(splits)
        form = formation.FormSettings(deadline, wire, collective, context, grace)
        hub = _hub_settings(form, listen, memory_budget, threads, state)
        host, port = serving.address_of(http, serving.HTTP_PORT)
        web = serving.HttpSettings(name or _model_name(splits), host, port, api_key, waiting)
        opened = serving.Serving(found, hub, web)
        _say_codes(out, opened, max(split.nodes for split in found))
        out.note(f"clients: http://{host}:{port}/v1, model {web.model}; Ctrl+C ends it")
        with _live(out, opened):
            opened.run()
        out.result(opened.told(), lambda console: None)


_WIRES = ("float32", "float16")
_COLLECTIVES = ("auto", "star", "doubling", "ring")


def _one_of(value: str, option: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value} is not known", f"there is {', '.join(known)}")


def _model_name(splits: list[Path]) -> str:
    return splits[0].resolve().name


def _hub_settings(
    form: "FormSettings",
    listen: str,
    memory_budget: str | None,
    threads: int | None,
    state: Path | None,
) -> "HubSettings":
    from edgekit.devices.cluster import hub, serving

    return hub.HubSettings(
        state or serving.default_state("hub"),
        address=serving.address_of(listen, serving.HUB_PORT),
        memory_budget=_bytes(memory_budget),
        threads=threads,
        form=form,
    )


def _bytes(text: str | None) -> int | None:
    """A number of bytes with a unit: ``256MiB``, ``3GB``, ``800000000``."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    units |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
    if text is None:
        return None
    number = text.strip().rstrip("BGIKMbgikm ")
    try:
        return int(float(number) * units[text.strip()[len(number) :].strip().upper()])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"{text!r} is no number of bytes", "", "write it as 256MiB") from None


def _say_codes(out: Output, opened: "Serving", nodes: int) -> None:
    """A join code for each worker that was never introduced."""
    missing = nodes - 1 - len(opened.hub.pins.all())
    port = opened.hub.door.address[1]
    for _ in range(missing):
        out.note(
            f"on a worker: edgekit cluster worker --join {platform.node() or 'HUB'}:{port} "
            f"--code {opened.hub.codes.issue()}"
        )


@contextlib.contextmanager
def _lines(out: Output) -> Iterator[Callable[[str], None]]:
    """Lines on stderr, with a time."""
    import time

    yield lambda line: out.note(f"{time.strftime('%H:%M:%S')} {line}")


@contextlib.contextmanager
def _live(out: Output, opened: "Serving") -> Iterator[None]:
    """A table of the nodes that is drawn anew every second, on a terminal."""
    if out.quiet or out.json or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr, markup=False, highlight=False)
    with Live(console=console, refresh_per_second=1, transient=True) as live:
        opened.watch(lambda told: live.update(nodes_table(told)))
        yield


def nodes_table(told: dict[str, Any]) -> "Table":
    """How every node is: memory, and milliseconds of the mean token."""
    rows = []
    for node in told["nodes"]:
        times, memory = node.get("seconds_per_token", {}), node.get("memory", {})
        link = node.get("link") or {}
        rows.append(
            (
                node.get("rank", ""),
                node["name"],
                node["state"],
                size(memory.get("now")),
                size(memory.get("total")),
                *(_milliseconds(times.get(name)) for name in ("compute", "stall", "link")),
                _milliseconds(link.get("latency")),
                f"{link['bandwidth'] / 1e6:.0f} MB/s" if link.get("bandwidth") else "",
            )
        )
    columns = (">rank", "node", "state", ">memory", ">plan", ">compute", ">stall", ">link")
    state = "complete" if told["complete"] else "incomplete"
    title = f"{state}, epoch {told['epoch']}, {len(told['faults'])} faults; ms a token"
    return table((*columns, ">latency", ">width"), rows, title)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.2f}"


def invite(
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="That it is good for.")] = 24,
    state: State = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a join code, with which one device becomes a worker of this machine's hub."""
    from edgekit.devices.cluster import identity, join_code, serving

    folder = state or serving.default_state("hub")
    with Output(json, quiet) as out:
        own = identity.Identity.open(folder, "hub")
        codes = join_code.JoinCodes(folder / "codes.json", own.fingerprint)
        code = str(codes.issue(hours * 3600))
        out.result({"code": code, "hours": hours}, lambda console: console.print(code))


def worker(
    join: Annotated[str, typer.Option("--join", help="Where the hub is: HOST:PORT.")],
    code: Annotated[
        str | None,
        typer.Option(
            "--code", envvar="EDGEKIT_JOIN_CODE", help="The hub's join code; the first time only."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="How the hub calls it; default: this host's.")
    ] = None,
    memory_budget: Budget = None,
    threads: Threads = None,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to call a hub that is gone.")
    ] = 60.0,
    state: State = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Work for a hub: fetch a shard from it, keep it, and compute until the hub ends."""
    from edgekit.devices.cluster import join_code, serving
    from edgekit.devices.cluster import worker as workers

    with Output(json, quiet) as out, _lines(out) as say, serving.lines_of_log(say):
        settings = workers.WorkerSettings(
            serving.address_of(join, serving.HUB_PORT),
            state or serving.default_state("worker"),
            name or platform.node() or "worker",
            _bytes(memory_budget),
            threads,
            patience,
        )
        parsed = None if code is None else join_code.JoinCode.parse(code)
        working = workers.Worker(settings, parsed, say)
        working.run()
        out.result({"ended": "by the hub"}, lambda console: None)


def chat(
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="One question; none: a conversation.")
    ] = None,
    url: Url = URL,
    api_key: Key = "",
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="0: the likeliest token always.")
    ] = 0.7,
    most: Annotated[int, typer.Option("--max-tokens", min=1, help="Of an answer.")] = 512,
    system: Annotated[str | None, typer.Option("--system", help="What it is told first.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Talk with a hub's model; without a PROMPT line by line, until the input ends."""
    from edgekit.devices.cluster import serving

    with Output(json, quiet) as out:
        client = serving.Client(url, api_key)
        messages = [{"role": "system", "content": system}] if system else []
        show = (lambda text: None) if json else out.stream
        for line in [prompt] if prompt else _typed_lines():
            messages.append({"role": "user", "content": line})
            answer = ""
            for text in client.chat(messages, temperature=temperature, max_tokens=most):
                show(text)
                answer += text
            show("\n")
            messages.append({"role": "assistant", "content": answer})
        out.result({"messages": messages}, lambda console: None)


def _typed_lines() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def status(
    url: Url = URL,
    api_key: Key = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a hub's nodes: memory, stall, link and compute time, and who was lost."""
    from edgekit.devices.cluster import serving

    with Output(json, quiet) as out:
        told = serving.Client(url, api_key).get("/cluster")
        out.result(told, lambda console: console.print(nodes_table(told)))


def devices(
    remove: Annotated[
        str | None, typer.Option("--remove", help="Let this device in no longer.")
    ] = None,
    state: State = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the devices that this machine's hub knows, or forget one."""
    from edgekit.devices.cluster import identity, serving

    with Output(json, quiet) as out:
        pins = identity.Pins((state or serving.default_state("hub")) / "devices.json")
        if remove is not None and not pins.remove(remove):
            raise DeviceError(f"no device is called {remove}", "", "edgekit cluster devices")
        found = [{"name": pin.name, "fingerprint": key} for key, pin in pins.all().items()]
        rows = [(one["name"], one["fingerprint"][:16]) for one in found]
        out.result(
            {"devices": found},
            lambda console: console.print(table(("device", "fingerprint"), rows)),
        )


_COMMANDS = {
    "serve": serve,
    "invite": invite,
    "worker": worker,
    "chat": chat,
    "status": status,
    "devices": devices,
}
