"""The page of ``edgekit demo lidar`` in headless Chromium: what is seen of a sweep."""

import io
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from ..lidar_micro import lidar_bundle, save_sweeps  # noqa: F401 -- a fixture
from .browser import agrees, chromium, needs_chromium, opened, screenshot, until
from .test_demo_lidar import answers, showing

NO_WEBGL = """
    const get = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
        return kind.startsWith("webgl") ? null : get.call(this, kind, ...rest);
    };
"""
VEHICLE = (66, 178, 240)  # the colour of the first class, as the page has it: hsl(200 85% 62%)


@pytest.fixture(scope="module")
def browser():
    """Chromium, for all tests of the page."""
    pytest.importorskip("playwright")
    with chromium() as found:
        yield found


@contextmanager
def page_of(browser, serving, sweeps: int = 2, script: str = ""):
    """The page, after some sweeps were shown; ``script`` is run before any of its own."""
    page = opened(browser, "about:blank")
    if script:
        page.add_init_script(script)
    page.goto(serving.url)
    until(page, f"Number(document.getElementById('view').dataset.number) >= {sweeps}")
    yield page
    assert page.faults == []
    page.close()


def pixels(page) -> np.ndarray:
    """What is to be seen of the 3D view, names included: (height, width, 3)."""
    picture = page.locator("#stage").screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def drawn(page) -> None:
    """Until what was asked for is on the screen."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of pixels that differ."""
    return float((np.abs(before - after).max(2) > 24).mean())


def near(picture: np.ndarray, colour) -> np.ndarray:
    """(N, 2) rows and columns of pixels of a colour."""
    return np.argwhere(np.abs(picture - colour).max(2) < 40)


def shown(page) -> dict:
    return page.evaluate(
        """() => ({
            ...document.getElementById("view").dataset,
            name: document.getElementById("which").textContent,
            count: document.getElementById("count").textContent,
            classes: Object.fromEntries([...document.querySelectorAll("#found .bar span")].map(
                (span) => [span.firstChild.textContent, Number(span.lastChild.textContent)])),
        })"""
    )


def check_shown(page, results, threshold):
    """The page says of the sweep that it shows what the task says of it; returns its name."""
    said_so = shown(page)
    name = said_so["name"].split(" (")[0]
    found = [one.label for one in results[name].detections if one.score >= threshold]
    assert len(found) > 3
    assert int(said_so["count"]) == int(said_so["boxes"]) == len(found)
    assert said_so["classes"] == Counter(found)
    assert int(said_so["points"]) == results[name].counts.points
    return name


def frozen(page, serving) -> str:
    """The number of the sweep that stays, once the demo is paused."""
    until(page, "document.getElementById('pause').textContent === 'Play'")
    stays = 0
    while stays < 3:  # one that was under way when it was paused is answered too
        page.wait_for_timeout(60)
        number = shown(page)["number"]
        stays = stays + 1 if int(number) == serving.demo._number else 0
    return number


@needs_chromium
def test_a_drive_is_seen_with_boxes_and_turned(lidar_bundle, browser, tmp_path):  # noqa: F811
    paths = save_sweeps(tmp_path / "street", 4, rings=64)
    (tmp_path / "street" / "torn.bin").write_bytes(b"seven b")
    results = answers(lidar_bundle, paths)
    with (
        showing(lidar_bundle, tmp_path / "street", 10.0) as serving,
        page_of(browser, serving, 4) as page,
    ):
        until(page, "!document.getElementById('passed').hidden")
        told = page.locator("#faults").inner_text()
        assert told == "torn.bin is no sweep: 7 bytes are no float32 numbers"
        until(page, "document.getElementById('end').textContent.endsWith(' ms')")
        agrees(page, serving)
        page.click("#pause")
        frozen(page, serving)
        name = check_shown(page, results, 0.3)
        screenshot(page, "demo-lidar", tmp_path)
        check_picture(page)
        check_steps(page, serving, results, name)
        check_threshold(page, results)
        check_touch(browser, page)
        check_loss(page)
        check_switch(page, serving, answers(lidar_bundle, paths, "openvino"))


def check_picture(page):
    """Points and boxes are there; keys, mouse and wheel change how they are seen."""
    page.keyboard.press("0")
    drawn(page)
    first = pixels(page)
    assert page.locator("#waiting").is_hidden()
    assert (first.max(2) > 70).mean() > 0.03  # the sweep, against the dark ground
    assert len(near(first, VEHICLE)) > 300
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert changed(first, turned := pixels(page)) > 0.02
    box = page.locator("#view").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1], steps=2)
    page.mouse.up()
    drawn(page)
    assert changed(turned, pixels(page)) > 0.02
    page.click("#home")
    drawn(page)
    np.testing.assert_array_equal(pixels(page), first)
    page.select_option("#colours", "intensity")
    drawn(page)
    assert changed(first, pixels(page)) > 0.02
    page.select_option("#colours", "height")
    page.click("#turn")
    page.wait_for_timeout(700)
    page.click("#turn")
    drawn(page)
    assert changed(first, pixels(page)) > 0.01


def check_steps(page, serving, results, name):
    """One sweep on, and no more; the one that is torn is passed over."""
    names = list(results)
    for _ in range(2):
        number = int(shown(page)["number"])
        page.click("#step")
        until(page, f"Number(document.getElementById('view').dataset.number) > {number}")
        name = names[(names.index(name) + 1) % len(names)]
        assert int(frozen(page, serving)) == number + 1
        assert check_shown(page, results, 0.3) == name


def check_threshold(page, results):
    """The slider leaves out what scores less."""
    many = int(shown(page)["count"])
    page.locator("#threshold").fill("0.75")
    assert 0 < int(shown(page)["count"]) < many
    check_shown(page, results, 0.75)
    page.locator("#threshold").fill("0.3")


def check_touch(browser, page):
    """Two fingers that part come closer."""
    before = pixels(page)
    box = page.locator("#view").bounding_box()
    y, middle = box["y"] + box["height"] / 2, box["x"] + box["width"] / 2
    fingers = browser.new_cdp_session(page)
    for kind, apart in (("touchStart", 30), ("touchMove", 60), ("touchMove", 90)):
        points = [{"x": middle + side * apart, "y": y, "id": side + 1} for side in (-1, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    drawn(page)
    assert changed(before, pixels(page)) > 0.02


def check_loss(page):
    """The browser may take the 3D view away, as it does when a graphics driver fails."""
    before = pixels(page)
    loss = "document.getElementById('view').getContext('webgl2').getExtension('WEBGL_lose_context')"
    page.evaluate(f"() => {{ window.loss = {loss}; loss.loseContext(); }}")
    until(page, "document.getElementById('blind').innerText.includes('took the 3D view away')")
    assert len(near(pixels(page), VEHICLE)) < len(near(before, VEHICLE)) / 2
    page.evaluate("() => loss.restoreContext()")
    until(page, "document.getElementById('blind').hidden")
    drawn(page)
    assert changed(before, pixels(page)) < 0.001


def check_switch(page, serving, results):
    """The other runtime answers the sweep that is shown, and says the same of it."""
    number, name = int(shown(page)["number"]), shown(page)["name"].split(" (")[0]
    labels = [choice.label for choice in serving.demo.engine.choices]
    (other,) = [label for label in labels if label.startswith("openvino")]
    page.select_option("#runtime", label=other)
    until(page, f"Number(document.getElementById('view').dataset.number) === {number + 1}")
    assert serving.demo.engine.choice.runtime == "openvino"
    assert check_shown(page, results, 0.3) == name


@needs_chromium
def test_ahead_is_up_and_left_is_left_from_above(lidar_bundle, browser, tmp_path):  # noqa: F811
    x, y = np.meshgrid(np.linspace(-30, 30, 121), np.linspace(-30, 30, 121))
    ground = np.stack([x, y, 0 * x, 0 * x], axis=-1).reshape(-1, 4)
    x, y, z = np.meshgrid(np.arange(18, 22, 0.3), np.arange(9, 11, 0.3), np.arange(0.3, 2, 0.3))
    thing = np.stack([x, y, z, 0 * x + 1], axis=-1).reshape(-1, 4)
    np.save(tmp_path / "one.npy", np.concatenate([ground, thing]).astype(np.float32))
    path = tmp_path / "one.npy"
    with showing(lidar_bundle, path, 5.0) as serving, page_of(browser, serving) as page:
        page.keyboard.press("a")
        drawn(page)
        picture = pixels(page)
        assert int(shown(page)["count"]) == 1
        found = near(picture, VEHICLE)
        assert len(found) > 50
        up, left = np.array(picture.shape[:2]) / 2 - np.median(found, axis=0)
        assert up == pytest.approx(2 * left, rel=0.35)
        assert left > 20


@needs_chromium
def test_without_webgl_the_page_says_so_and_counts_all_the_same(
    lidar_bundle,  # noqa: F811
    browser,
    tmp_path,
):
    paths = save_sweeps(tmp_path, 3)
    with (
        showing(lidar_bundle, tmp_path, 5.0) as serving,
        page_of(browser, serving, script=NO_WEBGL) as page,
    ):
        assert "no WebGL 2" in page.locator("#blind").inner_text()
        page.click("#pause")
        frozen(page, serving)
        check_shown(page, answers(lidar_bundle, paths), 0.3)


@needs_chromium
def test_a_real_sweep_is_seen(lidar_bundle, browser, shared_data):  # noqa: F811
    path = shared_data / "data/lidar/kitti_000008.bin"
    with showing(lidar_bundle, path, 5.0) as serving, page_of(browser, serving) as page:
        check_shown(page, answers(lidar_bundle, [path]), 0.3)
        assert (pixels(page).max(2) > 70).mean() > 0.02
        agrees(page, serving)
