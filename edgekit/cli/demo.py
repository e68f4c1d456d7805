"""``edgekit demo …``: programs that show a bundle at work, in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import BundlePath, Json, Quiet
from edgekit.cli.output import Output
from edgekit.errors import DeviceError

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

Runtime = Annotated[str, typer.Option("--runtime", "-r", help="A runtime's name, or auto.")]
Threads = Annotated[int | None, typer.Option("--threads", "-t", min=1, help="Of the engine.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for all networks.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")]


@app.callback()
def _demos() -> None:
    """Start a real-time demo in the browser."""


@app.command("talk")
def talk(
    bundle: BundlePath,
    runtime: Runtime = "auto",
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8998,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Talk to a speech dialogue: serve the WebSocket of Moshi's web client, one at a time.

    Only this machine can connect unless --host says otherwise; there is no password.
    """
    from edgekit.apps import talk as server

    with Output(json, quiet) as out, server.opened(Path(bundle), runtime, threads) as opened:
        running = server.configured(opened, host, port)
        address = f"ws://{host}:{port}{server.protocol.PATH}"
        out.note(f"listening at {address}; Ctrl+C ends it")
        try:
            running.run()
        except SystemExit as error:  # how uvicorn says that it cannot begin
            raise DeviceError(
                f"cannot listen at {host}:{port}", "is something else there?", "give --port"
            ) from error
        sessions = [vars(told) for told in opened.sessions]
        out.result({"address": address, "sessions": sessions}, lambda console: None)
