# SPDX-License-Identifier: Apache-2.0
"""What the console loads of others is fetched by its hash, or not at all."""

import base64
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/web_packages.py"
FILES = ("LICENSE", "package.json", "build/three.core.js", "build/three.module.js")


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("web_packages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(version: str = "1.0.0", **more: str) -> bytes:
    texts = {file: file for file in FILES} | {"package.json": json.dumps({"version": version})} | more
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in {**texts, "../../outside": "out"}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def lock(root: Path, content: bytes, version: str = "1.0.0") -> None:
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    (root / "web").mkdir(exist_ok=True)
    locked = {"packages": {"node_modules/three": {"version": version, "integrity": integrity}}}
    (root / "web/package-lock.json").write_text(json.dumps(locked))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the registry."""
    folder = tmp_path / "registry"
    (folder / "three/-").mkdir(parents=True)
    monkeypatch.setenv("npm_config_registry", folder.as_uri())
    return folder / "three/-"


def test_the_files_that_the_console_serves_are_kept(script: ModuleType, tmp_path: Path, registry: Path) -> None:
    (registry / "three-1.0.0.tgz").write_bytes(package())
    lock(tmp_path, package())
    script.install(tmp_path)
    folder = tmp_path / "web/node_modules/three"
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == sorted(FILES)
    (registry / "three-1.0.0.tgz").unlink()
    script.install(tmp_path)  # nothing is missing

    newer = package("2.0.0", **{"build/three.core.js": "new"})
    (registry / "three-2.0.0.tgz").write_bytes(newer)
    lock(tmp_path, newer, "2.0.0")
    script.install(tmp_path)
    assert (folder / "build/three.core.js").read_text() == "new"


def test_something_else_than_the_lock_file_names_is_not_written(
    script: ModuleType, tmp_path: Path, registry: Path
) -> None:
    (registry / "three-1.0.0.tgz").write_bytes(package(**{"build/three.core.js": "changed"}))
    lock(tmp_path, package())
    with pytest.raises(script.PackageError, match="SHA-512"):
        script.install(tmp_path)
    assert not (tmp_path / "web/node_modules").exists()


def test_without_a_network_it_says_so_in_one_line(
    script: ModuleType,
    tmp_path: Path,
    registry: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock(tmp_path, package())
    monkeypatch.setattr(script.install, "__defaults__", (tmp_path,))
    assert script.main() == 1
    assert capsys.readouterr().err.startswith("three 1.0.0 cannot be fetched")


def test_the_lock_file_names_what_is_used(script: ModuleType) -> None:
    root = SCRIPT.parents[1]
    locked = json.loads((root / "web/package-lock.json").read_text())["packages"]
    assert {f"node_modules/{name}" for name in script.USED} == set(locked) - {""}
    wanted = json.loads((root / "web/package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
        assert locked[f"node_modules/{name}"]["integrity"].startswith("sha512-")


def test_the_set_up_goes_on_without_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("bootstrap_of_web", SCRIPT.with_name("bootstrap.py"))
    assert spec is not None
    assert spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bootstrap_of_web", bootstrap)
    spec.loader.exec_module(bootstrap)
    monkeypatch.setattr(bootstrap, "ROOT", SCRIPT.parents[1])
    monkeypatch.setattr(
        bootstrap.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 1, "stderr": "a\nno network\n"})
    )
    bootstrap.install_web_packages()
    assert "no network" in capsys.readouterr().out
