"""A hub with its endpoint, from opening to end; and a client of that endpoint."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import signal
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit.errors import DeviceError, UsageError
from edgekit.paths import state_dir

from .http_api import LOOPBACK, Endpoint, configured
from .hub import Hub, HubSettings
from .service import WAITING, Service, describe_counts
from .shard import read_shard
from .tokens import Tokens
from .transfer import SplitModel, open_split

HUB_PORT: Final = 7710
HTTP_PORT: Final = 8710


@dataclass(frozen=True)
class HttpSettings:
    """Where the endpoint is, and for whom.

    Attributes:
        model: the name that clients ask for. key: what they must show; empty for nothing.
        waiting: requests that may wait.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = HTTP_PORT
    key: str = ""
    waiting: int = WAITING


def default_state(role: str) -> Path:
    """The folder of a hub's or a worker's identity, unless told otherwise."""
    return state_dir() / "cluster" / role


def address_of(text: str, port: int) -> tuple[str, int]:
    """``HOST``, ``HOST:PORT`` or ``[V6]:PORT`` as a pair.

    Raises:
        UsageError: it is none of them.
    """
    parts = urllib.parse.urlsplit(f"//{text}")
    try:
        found = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{text!r} is no address", str(error), "give HOST:PORT") from None
    if not found[0] or parts.path or parts.query or "@" in text:
        raise UsageError(f"{text!r} is no address", "", "give HOST:PORT")
    return found[0], port if found[1] is None else found[1]


def open_splits(folders: Sequence[Path]) -> list[SplitModel]:
    """Splits of one model over different numbers of nodes.

    Raises:
        UsageError: two are over as many nodes, or they are not of one model.
    """
    splits = [open_split(folder) for folder in folders]
    if len({split.nodes for split in splits}) < len(splits):
        raise UsageError("two splits are over as many nodes", "", "give one of them")
    languages = [read_shard(split.ranks[0][0]).language for split in splits]
    if any(language != languages[0] for language in languages):
        raise UsageError("the splits are not of one model", "", "split one model several times")
    return splits


class Serving:
    """A hub that serves.

    Args:
        splits: see :func:`open_splits`.

    Attributes:
        hub, service: what runs. server: uvicorn's.

    Raises:
        DeviceError: an address is taken. MissingBackendError: a library is not here.
    """

    def __init__(self, splits: Sequence[SplitModel], hub: HubSettings, web: HttpSettings) -> None:
        rank_0 = splits[0].ranks[0][0]
        language, tokens = read_shard(rank_0).language, Tokens(rank_0)
        self.hub = Hub(hub, splits)
        try:
            self.service = Service(self.hub, tokens, web.waiting)
            self.endpoint = Endpoint(
                self.service,
                tokens,
                web.model,
                language.stop,
                min(hub.form.context, language.positions),
                self.hub.told,
                web.key,
                LOOPBACK if web.host in LOOPBACK else ("*",),
            )
            self.server = configured(self.endpoint, web.host, web.port)
        except BaseException:
            self.hub.close()
            raise
        self._web = web

    def run(self) -> None:
        """Until SIGINT or SIGTERM.

        Raises:
            DeviceError: the endpoint's address is taken.
        """
        self.service.start()
        try:
            with self._until_signals():
                self.server.run()
        except SystemExit as error:  # how uvicorn says that it cannot begin
            where = f"{self._web.host}:{self._web.port}"
            raise DeviceError(f"cannot listen at {where}", "it is taken", "--http PORT") from error
        finally:
            self.close()

    @contextlib.contextmanager
    def _until_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.server.handle_exit) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """End requests, send the workers home."""
        self.hub.stop()
        self.service.close()
        self.hub.close()

    @property
    def started(self) -> bool:
        """Whether the endpoint listens."""
        return self.server.started

    @property
    def port(self) -> int:
        """The endpoint's; of use where 0 was asked for."""
        return self.server.servers[0].sockets[0].getsockname()[1]

    def told(self) -> dict[str, Any]:
        """The cluster's state for JSON."""
        about = self.hub.told() | {"model": self._web.model}
        return about | {"requests": describe_counts(self.service)}

    def watch(self, show: Callable[[dict[str, Any]], None], seconds: float = 1.0) -> None:
        """Call ``show`` with the state again and again, in a thread, while it serves."""

        def work() -> None:
            while not self.server.should_exit:
                show(self.told())
                ended.wait(seconds)

        ended = threading.Event()
        threading.Thread(target=work, name="watch", daemon=True).start()


@contextlib.contextmanager
def lines_of_log(say: Callable[[str], None]) -> Iterator[None]:
    """What the cluster logs, as lines, while the block runs."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    log, handler = logging.getLogger("edgekit.cluster"), Handler(logging.INFO)
    level, spread = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = spread


class Client:
    """A program's side of the endpoint.

    Args:
        url: of the hub, such as ``http://127.0.0.1:8710``. key: its API key.

    Raises:
        UsageError: it is no such address.
    """

    def __init__(self, url: str, key: str = "") -> None:
        parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a hub", "", "give http://HOST:PORT")
        self._where = parts.hostname, parts.port or HTTP_PORT
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, path: str) -> dict[str, Any]:
        """A document.

        Raises:
            DeviceError: nobody answers, or with an error.
        """
        with self._asked("GET", path, None) as response:
            return json.loads(response.read())

    def model(self) -> str:
        """The model's name."""
        return self.get("/v1/models")["data"][0]["id"]

    def chat(self, messages: Sequence[dict[str, str]], **options: Any) -> Iterator[str]:
        """The answer to a conversation, as it grows; otherwise as :meth:`get`."""
        body = {"model": self.model(), "messages": list(messages), "stream": True} | options
        with self._asked("POST", "/v1/chat/completions", body) as response:
            for line in response:
                data = line.decode().removeprefix("data: ").strip()
                if not line.startswith(b"data: ") or data == "[DONE]":
                    continue
                document = json.loads(data)
                if "error" in document:
                    raise DeviceError("the hub could not answer", document["error"]["message"])
                for choice in document["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(*self._where, timeout=600)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise DeviceError("the hub refused", _message(response.read()))
            yield response
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            where = "{}:{}".format(*self._where)
            why = getattr(error, "strerror", None) or str(error)
            raise DeviceError(f"no hub at {where}", why, "edgekit cluster serve") from error
        finally:
            connection.close()


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return data[:200].decode("utf-8", "replace")
