"""The floors of the house: a room imports only from lower floors, and some libraries stay in their room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

FLOORS = {"models": 0, "cluster": 1, "pipelines": 2, "serve": 2, "tune": 2, "edge": 2, "ui": 3, "earshot": 4}
OUTSIDE = ("tests", "benchmarks")  # may import every room; no room imports them
UNKNOWN_TO = {
    "models": {"ray", "fastapi", "starlette", "httpx", "gradio"},
    "pipelines": {"fastapi", "starlette", "gradio"},
    "tune": {"fastapi", "starlette", "gradio"},
    "edge": {"ray", "torch"},
    "serve": {"gradio"},
    "ui": {"ray", "torch"},
}
# Where sound is decoded; and the script that writes the page's samples.
DECODERS = {
    "soundfile": ("models/audio.py", "ui/samples/generate.py"),
    "av": ("models/audio.py",),
    "soxr": ("models/audio.py",),
}


def product_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(room, file) of every Python file of the product."""
    for room in FLOORS:
        for file in [root / f"{room}.py", *sorted((root / room).rglob("*.py"))]:
            if file.is_file():
                yield room, file


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, first word of the module) of each absolute import, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: all but the insides of functions."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def find_faults(root: Path) -> list[str]:
    """Every import that the floors forbid, as 'file:line: what'."""
    faults = []
    for room, file in product_files(root):
        name = file.relative_to(root).as_posix()
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line, module in imported(tree):
            if module in OUTSIDE:
                faults.append(f"{name}:{line}: the product imports {module}")
            elif module in FLOORS and module != room and FLOORS[module] >= FLOORS[room]:
                way = "sideways" if FLOORS[module] == FLOORS[room] else "upward"
                faults.append(f"{name}:{line}: {way} arrow from {room} to {module}")
            elif module in UNKNOWN_TO.get(room, ()):
                faults.append(f"{name}:{line}: {room} imports {module}")
            elif name not in DECODERS.get(module, (name,)):
                faults.append(f"{name}:{line}: {module} outside {DECODERS[module][0]}")
        for node in at_import(tree.body):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ray.init", "serve.run", "serve.start"):
                faults.append(f"{name}:{node.lineno}: {ast.unparse(node.func)} at import")
    return faults


def test_no_import_goes_up_or_sideways() -> None:
    assert find_faults(CHECKOUT) == []


def test_every_room_is_looked_at() -> None:
    rooms = {room for room, _ in product_files(CHECKOUT)}
    assert {"models", "cluster", "pipelines", "serve", "ui", "earshot"} <= rooms
    packages = {file.parent.name for file in CHECKOUT.glob("*/__init__.py")}
    assert packages <= {*FLOORS, *OUTSIDE}, "a room without a floor"


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("models/a.py", "import serve.api", "models/a.py:1: upward arrow from models to serve"),
        (
            "models/a.py",
            "def f():\n    from cluster.settings import Settings",
            "models/a.py:2: upward arrow from models to cluster",
        ),
        ("models/a.py", "if TYPE_CHECKING:\n    import ray", "models/a.py:2: models imports ray"),
        ("serve/a.py", "from tune import loop", "serve/a.py:1: sideways arrow from serve to tune"),
        (
            "serve/deep/a.py",
            "from pipelines.classify import x",
            "serve/deep/a.py:1: sideways arrow from serve to pipelines",
        ),
        ("cluster/a.py", "import earshot", "cluster/a.py:1: upward arrow from cluster to earshot"),
        ("serve/a.py", "from tests.sounds import tone", "serve/a.py:1: the product imports tests"),
        ("earshot.py", "import benchmarks.serving", "earshot.py:1: the product imports benchmarks"),
        ("ui/a.py", "import torch.nn", "ui/a.py:1: ui imports torch"),
        ("serve/a.py", "import soundfile", "serve/a.py:1: soundfile outside models/audio.py"),
        ("models/b.py", "import soxr", "models/b.py:1: soxr outside models/audio.py"),
        ("cluster/a.py", "import ray\n\nray.init()", "cluster/a.py:3: ray.init at import"),
        ("cluster/a.py", "class A:\n    x = ray.init()", "cluster/a.py:2: ray.init at import"),
    ],
)
def test_bad_arrow_is_caught(tmp_path: Path, file: str, text: str, fault: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert find_faults(tmp_path) == [fault]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "serve/a.py",
            "from ray import serve\nfrom models.audio import load_audio\nfrom serve.b import c\nfrom . import d",
        ),
        ("cluster/a.py", "def run():\n    import ray\n    ray.init()"),
        ("earshot.py", "import ui.page, serve.cli, cluster.cli"),
        ("models/audio.py", "import soundfile, av, soxr"),
    ],
)
def test_downward_arrow_is_let_pass(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert find_faults(tmp_path) == []
