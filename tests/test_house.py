"""The house rules: which room may import which, and what no file may hold."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

import pytest

from .conftest import REPOSITORY

# What each room may import beside itself (docs/architecture.md has the table in words).
ALLOWED = {
    "edgekit": set(),
    "models": {"edgekit"},
    "quant": {"edgekit", "runtimes"},
    "export": {"edgekit", "models", "quant", "runtimes", "devices"},
    "runtimes": {"edgekit"},
    "devices": {"edgekit", "runtimes"},
    "apps": {"edgekit", "runtimes", "devices"},
}
ROOMS = set(ALLOWED) - {"edgekit"}

# The doctor tries timm in the way that the timm: model source imports it.
EXCEPTIONS = {("devices/probes.py", "models")}

# Leaf programs that nothing imports: they train on pictures as a device will show them.
RECIPES = "models/recipes/"
RECIPES_MAY = {"runtimes"}

COMMAND_LINE = "edgekit/cli/"  # may import any room, inside functions

# Back ends that turn a model into graphs: nothing on a device has them.
EXPORTERS = {
    "coremltools",
    "executorch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxslim",
    "timm",
    "torch",
    "torchao",
    "torchvision",
    "transformers",
}
RUNTIME_LIBRARIES = {"cuda", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}
HEAVY = EXPORTERS | RUNTIME_LIBRARIES

# The two runtimes whose Python side is their exporter's, each in its own session.
SESSION_NEEDS = {
    "runtimes/sessions/coreml.py": {"coremltools"},
    "runtimes/sessions/executorch.py": {"executorch", "torch"},
}

LINES = 500
# Of what a function does: a command's signature alone, its options with their help, is as long.
BODY_LINES = 40
BYTES = 1_000_000
MACHINE_PATHS = tuple(f"/{name}/" for name in ("work", "root"))


@cache
def tracked() -> tuple[str, ...]:
    done = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout: no list of the files that belong to it")
    return tuple(name for name in done.stdout.split("\0") if (REPOSITORY / name).is_file())


def sources(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    """The Python files of these rooms, parsed."""
    for name in tracked():
        if name.endswith(".py") and name.partition("/")[0] in (rooms or ALLOWED):
            yield name, ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))


def module_of(name: str) -> list[str]:
    """``export/targets/onnx.py`` to the parts of the package it is in."""
    parts = PurePosixPath(name).parts[:-1]
    return list(parts) if parts[0] == "edgekit" else ["edgekit", *parts]


def imports(name: str, node: ast.AST) -> Iterator[str]:
    """The full names of what one statement or expression imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = module_of(name)
        base = package[: len(package) - node.level + 1] if node.level else []
        prefix = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{prefix}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0]
        if isinstance(first, ast.Constant):
            yield str(first.value)


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when a module is imported: no function bodies, nothing for type checkers."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def room_of(imported: str) -> str | None:
    """The room of a full name; None for what is not edgekit's."""
    first, _, rest = imported.partition(".")
    if first != "edgekit":
        return None
    return rest.partition(".")[0] if rest.partition(".")[0] in ROOMS else "edgekit"


def test_the_parser_sees_every_kind_of_import():
    code = "import torch.nn\nfrom ..runtimes import load\nfrom . import x\nimport_module('onnx')"
    found = [i for node in ast.walk(ast.parse(code)) for i in imports("export/passes/a.py", node)]
    assert found == [
        "torch.nn",
        "edgekit.export.runtimes.load",
        "edgekit.export.passes.x",
        "onnx",
    ]
    assert room_of("edgekit.export.passes.x") == "export"
    assert room_of("edgekit.errors") == "edgekit"
    lazy = "def f():\n    import torch\nif TYPE_CHECKING:\n    import onnx\nif x:\n    import timm"
    nodes = at_import_time(ast.parse(lazy))
    assert [i for node in nodes for i in imports("a/b.py", node)] == ["timm"]


def test_rooms_import_only_what_they_may():
    wrong = set()
    for name, tree in sources():
        room = name.partition("/")[0]
        if name.startswith(COMMAND_LINE):
            continue
        allowed = ALLOWED[room] | (RECIPES_MAY if name.startswith(RECIPES) else set())
        for node in ast.walk(tree):
            for imported in imports(name, node):
                other = room_of(imported)
                if other not in (None, room) and other not in allowed:
                    wrong.add((name, other))
    assert wrong == EXCEPTIONS


def test_nothing_imports_a_recipe():
    wrong = [
        (name, imported)
        for name, tree in sources()
        if not name.startswith(RECIPES)
        for node in ast.walk(tree)
        for imported in imports(name, node)
        if f"{imported}.".startswith("edgekit.models.recipes.")
    ]
    assert wrong == []


def test_the_command_line_imports_rooms_only_when_a_command_runs():
    wrong = [
        (name, imported)
        for name, tree in sources("edgekit")
        for node in at_import_time(tree)
        for imported in imports(name, node)
        if room_of(imported) in ROOMS
    ]
    assert wrong == []


def test_rooms_import_each_other_relatively_and_edgekit_by_name():
    wrong = []
    for name, tree in sources(*ROOMS):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                wrong += [(name, i) for i in imports(name, node) if room_of(i) in ROOMS]
    assert wrong == []


def test_a_device_needs_no_exporter():
    wrong = []
    for name, tree in sources("edgekit", "runtimes"):
        allowed = SESSION_NEEDS.get(name, set())
        for node in ast.walk(tree):
            packages = {imported.partition(".")[0] for imported in imports(name, node)}
            wrong += [(name, package) for package in packages & EXPORTERS - allowed]
    assert wrong == []


def test_back_ends_are_imported_where_they_are_used():
    """At the top of a module only torch, and only where a network or a graph is the subject."""
    wrong = []
    for name, tree in sources():
        allowed = {"torch"} if name.partition("/")[0] in ("models", "export") else set()
        for node in at_import_time(tree):
            packages = {imported.partition(".")[0] for imported in imports(name, node)}
            wrong += [(name, package) for package in packages & HEAVY - allowed]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        "edgekit.runtimes, edgekit.runtimes.tasks",
        "edgekit.cli, edgekit.cli.commands",
        "edgekit.models",
        "edgekit.export",
        "edgekit.devices.doctor, edgekit.devices.bench",
    ],
)
def test_importing_a_room_loads_no_back_end(module):
    program = f"import sys, {module}; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)


def test_files_are_short():
    code = (".py", ".j2", ".md", "Makefile", ".toml")
    texts = {
        name: (REPOSITORY / name).read_text("utf-8") for name in tracked() if name.endswith(code)
    }
    long = {name: text.count("\n") for name, text in texts.items() if text.count("\n") > LINES}
    assert long == {}


def test_functions_are_short():
    long = []
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                if lines > BODY_LINES:
                    long.append((name, node.name, lines))
    assert long == []


def test_no_file_is_large_or_knows_the_machine_it_was_written_on():
    large = [name for name in tracked() if (REPOSITORY / name).stat().st_size > BYTES]
    found = []
    for name in tracked():
        content = (REPOSITORY / name).read_bytes()
        found += [(name, path) for path in MACHINE_PATHS if path.encode() in content]
    assert (large, found) == ([], [])


def test_nothing_unpickles():
    wrong = []
    for name, tree in sources():
        for node in ast.walk(tree):
            modules = {imported.partition(".")[0] for imported in imports(name, node)}
            wrong += [(name, module) for module in modules & {"pickle", "dill", "joblib"}]
            if not isinstance(node, ast.Call):
                continue
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            called = ast.unparse(node.func)
            careless = called == "torch.load" and keywords.get("weights_only") != "True"
            careless |= called == "np.load" and keywords.get("allow_pickle") != "False"
            if careless:
                wrong.append((name, called))
    assert wrong == []


def test_data_is_not_checked_with_assert():
    """``python -O`` removes assertions, so an error that a user can cause needs a class."""
    wrong = [
        (name, node.lineno)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert wrong == []
