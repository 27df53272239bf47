# SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from carm_bringup.graph import description as graph
from carm_core.parameters import parameter_defaults
from carm_perception.nodes.parameters import LocalizerParameters

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up script, working in an empty folder."""
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bootstrap", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "BUILD", tmp_path / ".build")
    return module


@pytest.fixture
def wheels(tmp_path: Path) -> None:
    """Lock files of the wheels of two distributions."""
    for name in ("jazzy", "kilted"):
        (tmp_path / f"requirements-ros-{name}.lock").touch()


@pytest.fixture
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a ROS 2 distribution with ``rclpy`` and ``tf2_msgs``."""
    prefix = tmp_path_factory.mktemp("jazzy")
    (prefix / "setup.bash").touch()
    for package in ("rclpy", "tf2_msgs"):
        (prefix / "share" / package).mkdir(parents=True)
        (prefix / "share" / package / "package.xml").touch()
    return prefix


def test_without_ros_wheels_are_used(bootstrap: ModuleType, wheels: None) -> None:
    assert bootstrap.find_ros({}) == bootstrap.Ros("jazzy")


def test_the_choice_of_wheels_stays(bootstrap: ModuleType, tmp_path: Path, wheels: None) -> None:
    assert bootstrap.find_ros({"ROS": "kilted"}).name == "kilted"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/ros_distribution").write_text("kilted")
    assert bootstrap.find_ros({"ROS": ""}).name == "kilted"
    assert bootstrap.find_ros({"ROS": "jazzy"}).name == "jazzy"


def test_wheels_that_do_not_exist_are_refused_by_name(bootstrap: ModuleType, wheels: None) -> None:
    with pytest.raises(
        bootstrap.SetupError, match="ROS=rolling: there are no wheels of it; wheels there are: jazzy, kilted"
    ):
        bootstrap.find_ros({"ROS": "rolling"})


def test_own_build_is_no_distribution(bootstrap: ModuleType, tmp_path: Path, wheels: None) -> None:
    own = tmp_path / ".build/install"
    (own / "share/rclpy").mkdir(parents=True)
    (own / "setup.bash").touch()
    assert not bootstrap.find_ros({"AMENT_PREFIX_PATH": str(own), "ROS_DISTRO": "jazzy"}).is_distribution


def test_sourced_jazzy_is_used(bootstrap: ModuleType, distribution: Path) -> None:
    ros = bootstrap.find_ros({"AMENT_PREFIX_PATH": str(distribution), "ROS_DISTRO": "jazzy"})
    assert ros.is_distribution
    assert ros.has("tf2_msgs")
    assert not ros.has("control_msgs")


def test_other_distribution_is_refused_by_name(bootstrap: ModuleType, distribution: Path) -> None:
    with pytest.raises(bootstrap.SetupError, match="humble is sourced, this project needs one of: jazzy"):
        bootstrap.find_ros({"AMENT_PREFIX_PATH": str(distribution), "ROS_DISTRO": "humble"})


def test_step_runs_once_per_key(bootstrap: ModuleType, tmp_path: Path) -> None:
    stamp, runs = tmp_path / "stamps/step", []
    for key in ("a", "a", "b", "b", "a"):
        bootstrap.step(stamp, "a step", key, lambda: runs.append(1))
    assert len(runs) == 3


def test_interrupted_step_runs_again(bootstrap: ModuleType, tmp_path: Path) -> None:
    stamp, runs = tmp_path / "stamps/step", []

    def interrupted() -> None:
        raise KeyboardInterrupt

    bootstrap.step(stamp, "a step", "a", lambda: runs.append(1))
    with pytest.raises(KeyboardInterrupt):
        bootstrap.step(stamp, "a step", "b", interrupted)
    bootstrap.step(stamp, "a step", "a", lambda: runs.append(1))
    assert len(runs) == 2


def test_digest_sees_content_and_names(bootstrap: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "interfaces"
    folder.mkdir()
    seen = {bootstrap.digest(folder)}
    for name, content in (("A.msg", "x"), ("A.msg", "y"), ("B.msg", "y")):
        (folder / name).write_text(content)
        seen.add(bootstrap.digest(folder))
    assert len(seen) == 4
    assert bootstrap.digest(folder) == bootstrap.digest(folder)


def test_exports_point_to_this_python(bootstrap: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    export = tmp_path / ".venv/share/std_msgs/cmake/export.cmake"
    export.parent.mkdir(parents=True)
    export.write_text(
        "/opt/python/cp311-cp311/include/python3.11;"
        "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    )
    bootstrap.point_exports_here()
    include, numpy = export.read_text(encoding="utf-8").split(";")
    assert "/opt/python" not in include + numpy
    assert (Path(include) / "Python.h").is_file()
    assert numpy.endswith("site-packages/numpy/_core/include")


def test_failed_command_shows_the_end_of_its_log(bootstrap: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(bootstrap.SetupError, match="the reason"):
        bootstrap.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log/x.log")


def test_lock_files_pin_every_line_and_name_no_host() -> None:
    for lock in SCRIPT.parents[1].glob("requirements*.lock"):
        lines = lock.read_text(encoding="utf-8").splitlines()
        packages = [line for line in lines if not line.startswith("#")]
        assert packages
        for line in packages:
            assert line.count("==") == 1
            assert "/" not in line
            assert "+" not in line


def test_no_write_permission_is_one_line(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(bootstrap, "BUILD", tmp_path / "file/.build")
    assert bootstrap.main([]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_unknown_set_of_packages_is_refused(bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["tests"]) == 2
    assert "tests is none of: test, docs" in capsys.readouterr().err


def test_what_nothing_uses_is_removed_and_copies_are_linked(bootstrap: ModuleType, tmp_path: Path) -> None:
    site = tmp_path / ".venv/lib/python3.11/site-packages"
    for folder in ("torch/include", "numpy/tests", "scipy/linalg/tests", "pkg.libs"):
        (site / folder).mkdir(parents=True)
        (site / folder / "file").touch()
    first, second, other = (site / "pkg.libs" / name for name in ("a.so.1", "a.so.2", "b.so"))
    for path, content in ((first, b"a"), (second, b"a"), (other, b"b")):
        path.write_bytes(content * 600_000)
    bootstrap.drop_unused()
    assert sorted(str(p.relative_to(site)) for p in site.rglob("file")) == ["numpy/tests/file", "pkg.libs/file"]
    assert first.samefile(second)
    assert other.read_bytes() == b"b" * 600_000


def test_the_warm_up_loads_every_node_and_the_default_localizer(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[str] = []
    monkeypatch.setattr(bootstrap, "ROOT", SCRIPT.parents[1])
    monkeypatch.setattr(bootstrap, "run", lambda words, log: codes.append(words[-1]))
    bootstrap.warm_up()
    (loading,) = (code for code in codes if "make_localizer" in code)
    for spec in graph.ALL_NODES:
        assert f".nodes.{spec.executable}" in loading
    assert f"make_localizer({parameter_defaults(LocalizerParameters)['localizer'].upper()})" in loading
    for code in codes:
        compile(code, "warm-up", "exec")
