"""What the documentation says is true: its code runs, its commands parse, its links lead somewhere.

A block opened with ```` ```python NAME.py ```` is saved under that name for the blocks after
it; any other ```` ```python ```` block is run. The blocks of one page share their variables.
"""

import contextlib
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.cli import commands

from .conftest import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\((?P<to>[^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`(edgekit [^`]+)`")


@dataclass
class Block:
    """A fenced block: the words after its fence, its text, and where it starts."""

    info: list[str]
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["info"].split(), found["body"], text[: found.start("body")].count("\n"))
        for found in FENCE.finditer(text)
    ]


def code_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.info[:1] == ["python"]]


def shown_commands(page: Path) -> list[str]:
    """The lines of consoles that call edgekit."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page)
        if block.info[:1] in (["console"], ["sh"])
        for line in block.text.splitlines()
        if line.startswith(("$ edgekit ", "edgekit "))
    ]


def mentioned_commands(page: Path) -> list[str]:
    """``edgekit …`` as code within a sentence; arguments may be left out there."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in INLINE_COMMAND.findall(prose)]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder to run a page's code in; what the code imports from there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_blocks(page)], ids=lambda p: p.stem
)
def test_the_code_runs(page, workshop):
    variables = {"__name__": "__main__"}
    for block in code_blocks(page):
        if len(block.info) > 1:
            (workshop / block.info[1]).write_text(block.text)
            continue
        # Padded, so that a traceback shows the line in the page.
        code = "\n" * block.line + block.text
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(code, str(page), "exec", dont_inherit=True), variables)  # noqa: S102


@pytest.mark.parametrize("name", NAMES)
def test_shown_json_is_json(name):
    for block in blocks(REPOSITORY / name):
        if block.info[:1] == ["json"]:
            json.loads(block.text)


def complaint(line: str) -> str:
    """Why a command line cannot be parsed: an unknown command, option or kind of value."""
    words = shlex.split(line)[1:]
    if words[0] in ("--help", "--version"):
        return ""
    if words[0] not in commands.available():
        return f"there is no command {words[0]}"
    try:
        commands.load(words[0]).make_context(words[0], words[1:])
    except Exception as error:  # typer's own, which it exports no base class of
        return f"{type(error).__name__}: {error.format_message()}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_shown_commands_parse(name):
    wrong = {line: complaint(line) for line in shown_commands(REPOSITORY / name)}
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize("name", NAMES)
def test_mentioned_commands_exist(name):
    wrong = {line: complaint(line) for line in mentioned_commands(REPOSITORY / name)}
    wrong = {line: why for line, why in wrong.items() if not why.startswith("MissingParameter")}
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize(
    "line",
    ["edgekit exprot x", "edgekit export x --targets onnx", "edgekit bench b --repeat x"],
)
def test_a_wrong_command_would_be_found(line):
    assert re.match("there is no command|NoSuchOption|BadParameter", complaint(line))


def test_every_command_and_option_is_documented():
    page = (REPOSITORY / "docs/command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## edgekit (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert set(sections) == set(commands.available())
    everywhere = {"--json", "--quiet", "-q", "--help", "-h"}
    for name, section in sections.items():
        for parameter in commands.load(name).params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-") and option not in everywhere:
                    assert f"`{option}`" in section, f"edgekit {name} {option}"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = REPOSITORY / name
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for to in LINK.findall(prose):
        if "://" in to:
            continue
        path, _, anchor = to.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name} links to {to}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{name} links to {to}"


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_code_spans_exist(name):
    """`export/targets/base.py` in a sentence is a file, if its folder is one of ours."""
    prose = FENCE.sub("", (REPOSITORY / name).read_text(encoding="utf-8"))
    examples = {"models/tinynet.py", "tests/models/test_tinynet.py"}
    examples |= {f"{room}/onnx_optimised.py" for room in ("export/targets", "runtimes/sessions")}
    for path in re.findall(
        r"`((?:edgekit|models|quant|export|runtimes|devices|apps|tests)/[^`\s]*)`", prose
    ):
        assert path in examples or (REPOSITORY / path).exists(), f"{name} names {path}"


def test_nobody_is_told_to_install_somebody_elses_package():
    for page in PAGES:
        assert not re.search(r"pip install [\"']?edgekit(?!-toolkit)", page.read_text())
