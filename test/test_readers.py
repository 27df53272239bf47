# SPDX-License-Identifier: Apache-2.0
"""Files of others are read in few ways, none of which runs code or is unbounded; read from the sources."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(file for folder in ("src", "scripts", "launch") for file in (ROOT / folder).rglob("*.py"))


@lru_cache(maxsize=1024)
def nodes(file: Path) -> list[ast.AST]:
    tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in tree if isinstance(node, ast.Call | ast.Import | ast.ImportFrom)]


def calls(file: Path) -> Iterator[tuple[str, set[str]]]:
    """Every call by a dotted name, with its keywords and the values of those that are constants."""
    for node in nodes(file):
        if isinstance(node, ast.Call):
            keywords = {f"{k.arg}={getattr(k.value, 'value', '')}" for k in node.keywords}
            keywords |= {f"**{ast.unparse(k.value)}" for k in node.keywords if k.arg is None}
            yield ast.unparse(node.func), keywords


def imports(file: Path) -> set[str]:
    found = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_nothing_is_unpickled() -> None:
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert [file.name for file in SOURCES if imports(file) & modules] == []
    names = {"torch.load", "pd.read_pickle", "np.fromfile"}
    assert [(file.name, name) for file in SOURCES for name, _ in calls(file) if name in names] == []
    loads = [(f.name, keywords) for f in SOURCES for name, keywords in calls(f) if name in ("np.load", "numpy.load")]
    assert [load for load in loads if "allow_pickle=True" in load[1]] == []  # the default is False


def test_nothing_is_evaluated() -> None:
    names = {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}
    assert [(file.name, name) for file in SOURCES for name, _ in calls(file) if name in names] == []
    shells = [file.name for file in SOURCES for _, keywords in calls(file) if "shell=True" in keywords]
    assert shells == []


def test_yaml_is_parsed_in_one_place() -> None:
    names = {"yaml.load", "yaml.safe_load", "yaml.load_all", "yaml.safe_load_all"}
    found = {file.name for file in SOURCES for name, _ in calls(file) if name in names}
    assert found <= {"data_files.py"} | {file.name for file in (ROOT / "scripts").glob("*.py")}


def test_models_bring_no_code_along() -> None:
    loads = [
        (file.name, name, keywords)
        for file in SOURCES
        for name, keywords in calls(file)
        if name.endswith(".from_pretrained") and not name.startswith("PeftModel")
    ]
    assert len(loads) >= 6
    safe = {"trust_remote_code=False", "**ONLY_DATA", "**arguments"}
    assert [load for load in loads if not load[2] & safe] == []
