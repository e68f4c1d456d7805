"""The endpoint, as OpenAI's clients use it and as others misuse it; over loopback."""

import contextlib
import http.client
import json
import threading
import time

import numpy as np
import pytest

pytest.importorskip("cryptography")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

from edgekit.devices.cluster.formation import FormSettings
from edgekit.devices.cluster.generate import generate
from edgekit.devices.cluster.http_api import Endpoint, configured
from edgekit.devices.cluster.hub import HubSettings
from edgekit.devices.cluster.service import Request, Said, Service, StopTexts
from edgekit.devices.cluster.serving import Client, HttpSettings, Serving, address_of, open_splits
from edgekit.devices.cluster.split import split
from edgekit.devices.cluster.tokens import Tokens
from edgekit.errors import DeviceError, UsageError

from .processes import tiny_model, wait


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    split(tiny_model(folder / "model"), folder / "one", [1])
    return folder / "one"


@pytest.fixture(scope="module")
def serving(parts, tmp_path_factory):
    hub = HubSettings(
        tmp_path_factory.mktemp("hub"),
        address=("127.0.0.1", 0),
        threads=1,
        form=FormSettings(context=96),
        engine={"kernel": "numpy"},
    )
    made = Serving(open_splits([parts]), hub, HttpSettings("tiny", port=0))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    wait(lambda: made.started)
    yield made
    made.server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


class Slow:
    """A cluster that takes its time; it always says the same letter."""

    context = 10_000

    def __init__(self):
        self.ids, self.complete, self.rested = [], True, 0
        self.steps, self.fails = 0, None

    @property
    def position(self):
        return len(self.ids)

    def prefill(self, ids):
        if self.fails:
            raise self.fails
        self.ids += ids
        self.steps += 1
        time.sleep(0.01)
        return np.eye(260, dtype=np.float32)[70]

    def decode(self, token):
        return self.prefill([token])

    def truncate(self, position):
        del self.ids[position:]

    def rest(self):
        self.rested += 1

    def form(self):
        self.complete = True


@contextlib.contextmanager
def slow(parts, waiting=1, **options):
    hub = Slow()
    tokens = Tokens(parts / "rank-0")
    service = Service(hub, tokens, waiting)
    told = lambda: {"complete": hub.complete}  # noqa: E731
    endpoint = Endpoint(service, tokens, "tiny", (257,), 10_000, told, **options)
    server = configured(endpoint, "127.0.0.1", 0)
    service.start()
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait(lambda: server.started)
    try:
        yield hub, service, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        service.close()
        thread.join(20)


def ask(port, path, body=None, headers=None, method=None):
    """Status and document."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "application/json"} | (headers or {})
    data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
    connection.request(method or ("POST" if data else "GET"), path, data, headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text)


def chat(**changes):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12}
    return body | {"temperature": 0} | changes


def events(port, body, path="/v1/chat/completions"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.getheader("content-type").startswith("text/event-stream")
    lines = [line.strip() for line in response if line.startswith(b"data: ")]
    connection.close()
    assert lines.pop() == b"data: [DONE]"
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def due(serving, messages, most):
    """What the engine itself says."""
    tokens = serving.endpoint.tokens
    serving.hub.truncate(0)
    text = "".join(generate(serving.hub, tokens, tokens.chat(messages), most, stop=(257,)))
    serving.hub.rest()
    return text


def test_models(serving):
    status, document = ask(serving.port, "/v1/models")
    assert (status, [one["id"] for one in document["data"]]) == (200, ["tiny"])
    assert ask(serving.port, "/v1/models/tiny")[1]["object"] == "model"
    assert ask(serving.port, "/v1/models/other")[0] == 404


def test_an_answer_whole_and_in_pieces_is_the_engines(serving):
    expected = due(serving, chat()["messages"], 12)
    status, whole = ask(serving.port, "/v1/chat/completions", chat())
    assert status == 200
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected}
    assert choice["finish_reason"] in ("length", "stop")
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    first, *pieces, last, tail = events(serving.port, chat(**options))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = [piece["choices"][0]["delta"].get("content", "") for piece in [*pieces, last]]
    assert "".join(said) == expected
    assert last["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert (tail["choices"], tail["usage"]) == ([], usage)
    assert len({piece["id"] for piece in [first, *pieces, last, tail]}) == 1


def test_every_piece_says_how_many_tokens_there_are_if_asked(serving):
    asked = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    _, *pieces = events(serving.port, chat(**asked))
    counts = [piece["usage"]["completion_tokens"] for piece in pieces]
    assert counts == sorted(counts)
    whole = ask(serving.port, "/v1/chat/completions", chat())[1]["usage"]
    assert counts[-1] == whole["completion_tokens"]
    assert all(piece["usage"]["prompt_tokens"] > 0 for piece in pieces)


def test_plain_completions(serving):
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 8, "temperature": 0}
    status, whole = ask(serving.port, "/v1/completions", body)
    assert (status, whole["object"]) == (200, "text_completion")
    pieces = events(serving.port, body | {"stream": True}, "/v1/completions")
    text = "".join(piece["choices"][0]["text"] for piece in pieces)
    assert text == whole["choices"][0]["text"]


def test_a_seed_gives_the_same_text_again(serving):
    def text(seed):
        body = chat(temperature=1.5, seed=seed)
        return ask(serving.port, "/v1/chat/completions", body)[1]["choices"][0]["message"]

    assert text(5) == text(5)
    assert text(5) != text(6)


def test_a_stop_text_ends_it(serving):
    expected = due(serving, chat()["messages"], 12)
    stop = expected[3:5]
    _, whole = ask(serving.port, "/v1/chat/completions", chat(stop=[stop, "never"]))
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == expected[: expected.index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (chat(model="gpt-4"), 404, "there is no model"),
        (chat(messages=[]), 400, "messages is not possible"),
        (chat(messages=[{"role": "user"}]), 400, "messages.0.content"),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, "messages"),
        (chat(messages=[{"role": "user", "content": "x" * 500}]), 400, "the prompt has"),
        (chat(n=2), 400, "n is not possible"),
        (chat(logprobs=True), 400, "logprobs is not possible"),
        (chat(tools=[{"type": "function"}]), 400, "tools is not possible"),
        (chat(temperature=9), 400, "temperature"),
        (chat(max_tokens=0), 400, "max_tokens"),
        (chat(stop=list("abcde")), 400, "stop has more than 4"),
        (b"{", 400, "the body is not possible"),
        (b"[" * 100_000, 400, "the body is not possible"),
        (b" " * (5 << 20), 413, "more than 4194304 bytes"),
    ],
)
def test_what_is_not_possible_is_said(serving, body, status, words):
    found, document = ask(serving.port, "/v1/chat/completions", body)
    assert (found, document["error"]["type"]) == (status, "invalid_request_error")
    assert words in document["error"]["message"]
    assert document["error"].keys() == {"message", "type", "param", "code"}


def test_no_such_place_or_way(serving):
    assert ask(serving.port, "/v1/nothing")[0] == 404
    status, document = ask(serving.port, "/v1/chat/completions")
    assert (status, document["error"]["message"]) == (405, "method not allowed")


def test_a_page_from_elsewhere_gets_nothing(serving):
    plain = {"Content-Type": "text/plain"}
    assert ask(serving.port, "/v1/chat/completions", chat(), plain)[0] == 415
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)
    connection.request("GET", "/v1/models", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 400
    connection.close()


def test_the_state_of_the_cluster(serving):
    wait(lambda: ask(serving.port, "/health")[0] == 200)
    status, told = ask(serving.port, "/cluster")
    assert (status, told["complete"], told["model"]) == (200, True, "tiny")
    assert told["nodes"][0]["rank"] == 0
    assert told["requests"]["failed"] == 0


def test_a_client_of_our_own(serving):
    client = Client(f"127.0.0.1:{serving.port}")
    said = "".join(client.chat(chat()["messages"], temperature=0, max_tokens=12))
    assert said == due(serving, chat()["messages"], 12)
    with pytest.raises(DeviceError, match="refused: max_tokens"):
        list(client.chat(chat()["messages"], max_tokens=-1))
    with pytest.raises(DeviceError, match=r"no hub at 127.0.0.1:1"):
        Client("127.0.0.1:1").get("/cluster")
    with pytest.raises(UsageError):
        Client("ftp://x")


def test_a_client_that_goes_stops_its_generation(parts):
    with slow(parts) as (hub, service, port):
        for stream in (True, False):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            body = json.dumps(chat(max_tokens=5000, stream=stream))
            connection.request(
                "POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            before = hub.steps
            wait(lambda before=before: hub.steps > before + 5)
            connection.sock.close()
            if stream:
                connection.close()
            wait(lambda: service.waiting == 0, 5)
            steps = hub.steps
            time.sleep(0.1)
            assert hub.steps == steps < 500
        assert service.counts["cancelled"] == 2
        assert hub.rested == 2


def test_one_at_a_time_and_few_wait(parts):
    with slow(parts, waiting=1) as (hub, service, port):
        told = []
        first = service.submit(Request([5], 5000), told.append)
        wait(lambda: hub.steps > 2)
        second = service.submit(Request([6, 7], 3), told.append)
        status, document = ask(port, "/v1/chat/completions", chat())
        assert (status, document["error"]["code"]) == (503, "overloaded")
        assert hub.ids[0] == 5
        first.cancel()
        wait(lambda: service.waiting == 0)
        assert (told[-1].reason, told[-1].tokens) == ("length", 3)
        assert not second.cancelled
        assert service.counts | {"tokens": 0} == {
            **{"done": 1, "cancelled": 1, "failed": 0, "refused": 1, "tokens": 0}
        }


def test_a_cluster_that_fails_is_told_to_the_client(parts):
    with slow(parts) as (hub, _, port):
        hub.fails = DeviceError("nobody is there")
        status, document = ask(port, "/v1/chat/completions", chat())
        assert (status, document["error"]["message"]) == (503, "nobody is there")
        (_, last) = events(port, chat(stream=True))
        assert last["error"]["message"] == "nobody is there"
        hub.fails = ZeroDivisionError()
        status, document = ask(port, "/v1/chat/completions", chat())
        assert (status, document["error"]["type"]) == (503, "server_error")
        hub.fails = None
        assert ask(port, "/v1/chat/completions", chat())[0] == 200


def test_a_key_is_needed_where_one_is_set(parts):
    with slow(parts, key="secret") as (_, _, port):
        for path in ("/v1/models", "/cluster"):
            assert ask(port, path)[0] == 401
            assert ask(port, path, headers={"Authorization": "Bearer wrong"})[0] == 401
            assert ask(port, path, headers={"Authorization": "Bearer secret"})[0] == 200
        assert ask(port, "/v1/chat/completions", chat())[0] == 401
        assert Client(f"127.0.0.1:{port}", "secret").model() == "tiny"


def test_the_network_needs_a_key(parts):
    endpoint = Endpoint(None, None, "tiny", (), 10, dict)
    with pytest.raises(UsageError, match="anybody on the network could use"):
        configured(endpoint, "0.0.0.0", 0)  # noqa: S104


def test_the_same_beginning_is_computed_once(parts):
    hub = Slow()
    service = Service(hub, Tokens(parts / "rank-0"))
    list(service._generate(type("Job", (), {"request": Request([1, 2, 3], 2), "cancelled": 0})))
    assert hub.ids == [1, 2, 3, 70]
    hub.steps = 0
    list(service._generate(type("Job", (), {"request": Request([1, 2, 9], 1), "cancelled": 0})))
    assert (hub.ids, hub.steps) == ([1, 2, 9], 1)


@pytest.mark.parametrize("cut", range(1, 5))
def test_stop_texts_are_found_wherever_pieces_end(cut):
    text = "one, two. END and on"
    stop = StopTexts(("END", "ENormous"))
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    said = "".join(stop.add(piece) for piece in pieces) + stop.end()
    assert (said, stop.met) == ("one, two. ", True)
    stop = StopTexts(("END",))
    assert stop.add("an EN") == "an "
    assert stop.end() == "EN"


def test_addresses():
    assert address_of("hub.local", 7) == ("hub.local", 7)
    assert address_of("10.0.0.1:99", 7) == ("10.0.0.1", 99)
    assert address_of("[::1]:0", 7) == ("::1", 0)
    for wrong in ("", ":9", "a:b", "a:99999", "u@h:1", "h/x"):
        with pytest.raises(UsageError):
            address_of(wrong, 7)


def test_splits_are_of_one_model(parts, tmp_path):
    other = split(tiny_model(tmp_path / "m", heads=4, kv_heads=2), tmp_path / "two", [1, 1])
    with pytest.raises(UsageError, match="not of one model"):
        open_splits([parts, other[0].parent])
    with pytest.raises(UsageError, match="over as many nodes"):
        open_splits([parts, parts])
    assert Said().reason is None
