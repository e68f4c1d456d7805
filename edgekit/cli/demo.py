"""``edgekit demo …``: programs that show a bundle at work, in the browser."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import Json, Quiet
from edgekit.cli.output import Output
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.apps.web.serve import Address

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

Bundles = Annotated[
    list[Path],
    typer.Argument(metavar="BUNDLE…", help="A bundle; several are precisions to switch between."),
]
Runtime = Annotated[str, typer.Option("--runtime", "-r", help="A runtime's name, or auto.")]
Threads = Annotated[int | None, typer.Option("--threads", "-t", min=1, help="Of the engine.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for all networks.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="EDGEKIT_TOKEN", help="In place of one made up each time."),
]
Origin = Annotated[
    list[str] | None, typer.Option("--origin", help="Another site whose pages may connect.")
]
Certificate = Annotated[
    Path | None, typer.Option("--certificate", help="PEM file: https in place of http.")
]
Key = Annotated[Path | None, typer.Option("--key", help="PEM file of the certificate's key.")]
Browser = Annotated[bool, typer.Option("--open", help="Open the page in the browser here.")]
Source = Annotated[
    Path | None,
    typer.Option(
        "--source",
        help="In place of the browser's camera: a video, a folder of frames, /dev/video0.",
    ),
]
Recording = Annotated[
    Path | None,
    typer.Option("--source", help="A sound file in place of a microphone, over and over."),
]
SweepSource = Annotated[
    Path | None,
    typer.Option("--source", help="A sweep or a folder of them in place of a made-up street."),
]
Rate = Annotated[float, typer.Option("--rate", min=0.01, max=100, help="Sweeps a second, at most.")]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help='What to look for: "person,car", or a .txt file of lines.'),
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", help="What scores less is not shown (0 to 1).")
]
HubUrl = Annotated[
    str | None,
    typer.Argument(metavar="[HUB_URL]", help="Of edgekit cluster serve: http://HOST:PORT."),
]
ApiKey = Annotated[
    str, typer.Option("--api-key", envvar="EDGEKIT_API_KEY", help="That the hub asks for.")
]
Local = Annotated[
    str | None,
    typer.Option(
        "--local",
        metavar="MODEL",
        help="In place of a hub: a cluster of processes here, of a Hugging Face folder, a .gguf or"
        " what edgekit cluster split wrote.",
    ),
]
Ranks = Annotated[int, typer.Option("--ranks", "-n", min=1, max=16, help="Of --local.")]
RankBudget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget", "--memory", help="Of each process of --local at most, e.g. 256MiB."
    ),
]
RankPrecision = Annotated[
    str, typer.Option("--precision", "-p", help="Of --local: fp32, bf16, int8 or int4.")
]
Context = Annotated[int, typer.Option("--context", min=16, help="Tokens that fit in --local.")]


@app.callback()
def _demos() -> None:
    """Start a real-time demo in the browser.

    Only this machine can connect unless --host says otherwise, and only with the token that the
    address holds.
    """


@app.command("classify")
def classify(
    bundles: Bundles,
    source: Source = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8990,
    token: Token = None,
    origin: Origin = None,
    certificate: Certificate = None,
    key: Key = None,
    browser: Browser = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label what a camera or a video shows, frame by frame."""
    from edgekit.apps import camera
    from edgekit.apps.web.engine import Engine

    address = _address(host, port, token, origin, certificate, key)
    with Output(json, quiet) as out:
        clip = _clip(source)
        with Engine(bundles, camera.CLASSIFY, runtime, threads) as engine:
            _show(out, camera.CameraDemo(engine, clip), address, browser)


@app.command("detect")
def detect(
    bundles: Bundles,
    source: Source = None,
    classes: Classes = None,
    threshold: Threshold = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8990,
    token: Token = None,
    origin: Origin = None,
    certificate: Certificate = None,
    key: Key = None,
    browser: Browser = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw boxes around what a camera or a video shows; its classes can be typed on the page."""
    from edgekit.apps import camera
    from edgekit.apps.web.engine import Engine
    from edgekit.cli.run_prompts import read_classes

    address = _address(host, port, token, origin, certificate, key)
    with Output(json, quiet) as out:
        clip = _clip(source)
        wanted = camera.Wanted(read_classes(classes) if classes else None, threshold)
        with Engine(bundles, camera.DETECT, runtime, threads, wanted.tell) as engine:
            _show(out, camera.DetectDemo(engine, clip, wanted), address, browser)


@app.command("emotion")
def emotion(
    bundles: Bundles,
    source: Recording = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8990,
    token: Token = None,
    origin: Origin = None,
    certificate: Certificate = None,
    key: Key = None,
    browser: Browser = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a voice does, and which emotion is heard in it, over time."""
    from edgekit.apps import emotion as demo
    from edgekit.apps.web.engine import Engine

    address = _address(host, port, token, origin, certificate, key)
    with Output(json, quiet) as out, Engine(bundles, demo.KINDS, runtime, threads) as engine:
        sound = None if source is None else demo.read(source, engine.task)
        _show(out, demo.EmotionDemo(engine, sound), address, browser)


@app.command("lidar")
def lidar(
    bundles: Bundles,
    source: SweepSource = None,
    rate: Rate = 10.0,
    threshold: Threshold = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8990,
    token: Token = None,
    origin: Origin = None,
    certificate: Certificate = None,
    key: Key = None,
    browser: Browser = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw boxes around what lidar sweeps show, as a moving 3D view."""
    from edgekit.apps import lidar as demo
    from edgekit.apps.sweeps import open_sweeps
    from edgekit.apps.web.engine import Engine

    address = _address(host, port, token, origin, certificate, key)
    with Output(json, quiet) as out:
        sweeps = open_sweeps(source)
        with Engine(bundles, demo.KINDS, runtime, threads) as engine:
            _show(out, demo.LidarDemo(engine, sweeps, rate, threshold), address, browser)


@app.command("talk")
def talk(
    bundles: Bundles,
    runtime: Runtime = "auto",
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8998,
    token: Token = None,
    origin: Origin = None,
    certificate: Certificate = None,
    key: Key = None,
    browser: Browser = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Talk to a speech dialogue, which listens while it speaks; one at a time.

    Moshi's own web client can talk to it, too, at HOST:PORT/TOKEN, if --origin names its site.
    """
    from edgekit.apps import talk as demo

    address = _address(host, port, token, origin, certificate, key)
    with Output(json, quiet) as out, demo.opened(bundles, runtime, threads) as opened:
        _show(out, opened, address, browser)


@app.command("chat")
def chat(
    hub: HubUrl = None,
    api_key: ApiKey = "",
    local: Local = None,
    ranks: Ranks = 2,
    memory_budget: RankBudget = None,
    precision: RankPrecision = "int8",
    context: Context = 2048,
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8990,
    token: Token = None,
    origin: Origin = None,
    certificate: Certificate = None,
    key: Key = None,
    browser: Browser = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Talk with a model that several devices run together, and see what each has and does.

    Without HUB_URL the hub of this machine is asked; --local starts one, with workers.
    """
    from edgekit.apps import chat as demo
    from edgekit.apps.chat_local import local_hub, reached
    from edgekit.devices.cluster.memory import parse_size

    address = _address(host, port, token, origin, certificate, key)
    with Output(json, quiet) as out, contextlib.ExitStack() as held:
        if local is None:
            found = reached(hub, api_key)
        elif hub is None:
            budget = None if memory_budget is None else parse_size(memory_budget)
            settings = {"memory_budget": budget, "threads": threads, "context": context}
            found = held.enter_context(local_hub(local, ranks, precision, out.note, **settings))
        else:
            raise UsageError("a hub and --local", "one of them is shown", "drop either")
        _show(out, demo.ChatDemo(found), address, browser)


def _address(
    host: str,
    port: int,
    token: str | None,
    origins: list[str] | None,
    certificate: Path | None,
    key: Path | None,
) -> "Address":
    from edgekit.apps.web.serve import Address

    return Address(host, port, token, tuple(origins or ()), certificate, key)


def _clip(source: Path | None) -> Any:
    from edgekit.runtimes.cameras import open_camera
    from edgekit.runtimes.clips import open_clip

    if source is None:
        return None
    return open_camera(source) if str(source).startswith("/dev/") else open_clip(source)


def _show(out: Output, demo: Any, address: "Address", browser: bool) -> None:
    from edgekit.apps.web.show import show

    if demo.engine is not None and demo.engine.random:
        out.warn(f"{demo.engine.model} has random weights: its answers mean nothing")
    # The address is what the command is for, so that --quiet does not leave it out.
    document = show(demo, address, lambda line: typer.echo(line, err=True), browser=browser)
    out.result(document, lambda console: None)
