# SPDX-License-Identifier: Apache-2.0
"""The keystore is one of SROS2, and says who may command the arm."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from carm_bringup.cli import doctor
from carm_bringup.cli.app import run
from carm_bringup.graph import description as graph
from carm_bringup.graph import launcher
from carm_bringup.security import access, keystore
from carm_bringup.security.access import ACCESS, OPERATOR, Permissions
from carm_core.errors import ConfigurationError
from carm_ros.security import enclave_arguments

SOURCE = Path(__file__).resolve().parents[3] / "src"
VALUES = graph.resolve([], "hardware")
ALLOWED = access.enclaves(VALUES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keystore") / "keys"
    assert run(["security", "init", str(folder)]) == 0
    return folder


def who(kind: str, topic: str, allowed: dict[str, Permissions] = ALLOWED) -> set[str]:
    return {name.removeprefix("/carm/") for name, rights in allowed.items() if topic in getattr(rights, kind)}


def test_every_node_of_the_graph_has_an_enclave() -> None:
    assert {spec.name for spec in graph.ALL_NODES} <= set(ACCESS)
    for kind in ("sim", "hardware"):
        assert {spec.name for spec in graph.nodes(graph.resolve(["scene:=true"], kind))} <= set(ACCESS)


@pytest.mark.parametrize(
    ("kind", "topic", "names"),
    [
        ("publish", "rt/carm/joint_states", {"motion_node", "drive_node"}),
        ("publish", "rt/carm/supervisor/permit", {"supervisor_node"}),
        ("publish", "rt/carm/patient_surface", {"xray_node"}),
        ("publish", "rq/carm/stopRequest", {"console_node", OPERATOR, "agent_node", "supervisor_node"}),
        ("publish", "rq/carm/resetRequest", {"console_node", OPERATOR}),
        ("publish", "rq/carm/navigate/_action/send_goalRequest", {"console_node", OPERATOR}),
        (
            "publish",
            "rq/carm/joint_trajectory_controller/follow_joint_trajectory/_action/send_goalRequest",
            {"agent_node"},
        ),
        ("publish", "rt/carm/joint_trajectory_controller/joint_trajectory", set()),
        ("publish", "rq/carm/motion_node/set_parametersRequest", set()),
        ("publish", "rq/carm/agent_node/set_parametersRequest", set()),
        ("publish", "rq/carm/agent_node/get_parametersRequest", {OPERATOR, "recorder_node"}),
        ("publish", "rq/carm/xray/exposeRequest", {"console_node", OPERATOR, "agent_node"}),
        ("publish", "rq/carm/xray/fluoroscopyRequest", {"console_node"}),
        ("publish", "rq/carm/save_positionRequest", {"console_node", OPERATOR}),
        ("publish", "rq/carm/supervisor_node/get_parametersRequest", {"console_node", OPERATOR, "recorder_node"}),
        ("publish", "rq/carm/supervisor_node/set_parametersRequest", set()),
        ("publish", "rt/carm/clinician", {"console_node", OPERATOR}),
        ("subscribe", "rq/carm/stopRequest", {"motion_node", "drive_node", "state_node"}),
    ],
)
def test_who_may_what(kind: str, topic: str, names: set[str]) -> None:
    assert who(kind, topic) == names


def test_no_wildcard_writes() -> None:
    assert [topic for rights in ALLOWED.values() for topic in rights.publish if "*" in topic] == []


def test_names_follow_the_launch_arguments() -> None:
    values = graph.resolve(
        ["namespace:=left/carm", "controller:=/robot/jtc", "joint_states:=/robot/joint_states"], "hardware"
    )
    allowed = access.enclaves(values)
    agent = allowed["/left/carm/agent_node"]
    assert "rt/robot/joint_states" in agent.subscribe
    assert "rq/robot/jtc/follow_joint_trajectory/_action/send_goalRequest" in agent.publish
    assert "rt/left/carm/agent/dialogue" in agent.publish


def named(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Every (file, role, name) of topics and services that nodes name in their code."""
    roles = {
        "create_publisher": "publishes",
        "create_subscription": "subscribes",
        "create_service": "serves",
        "create_client": "calls",
    }
    for file in folder.rglob("nodes/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in roles:
                name = node.args[1] if len(node.args) > 1 else None
                if isinstance(name, ast.Constant):
                    yield file.name, roles[node.func.attr], str(name.value)


@pytest.mark.parametrize("package", ["carm_control", "carm_sim", "carm_perception", "carm_agent", "carm_bringup"])
def test_what_the_nodes_name_is_in_the_table(package: str) -> None:
    known = {
        role: {name for rights in ACCESS.values() for name in getattr(rights, role)}
        for role in ("publishes", "subscribes", "serves", "calls")
    }
    if package == "carm_bringup":  # operator and recorder read everything
        known["subscribes"] |= {name for _, role, name in named(SOURCE / package) if role == "subscribes"}
    strays = [found for found in named(SOURCE / package) if found[2] not in known[found[1]]]
    assert strays == [], "name it in carm_bringup/security/access.py, for the node that needs it"


def test_layout_is_that_of_sros2(store: Path) -> None:
    for kind in ("identity", "permissions"):
        assert (store / "public" / f"{kind}_ca.cert.pem").read_bytes() == (
            store / "public" / "ca.cert.pem"
        ).read_bytes()
        assert (store / "private" / f"{kind}_ca.key.pem").is_file()
    assert keystore.missing(store, list(ALLOWED)) == []
    assert keystore.missing(store, ["/carm/other"])[0] == "enclaves/carm/other/cert.pem"
    for key in store.rglob("*key.pem"):
        assert key.resolve().stat().st_mode & 0o077 == 0
    assert (store / "private").stat().st_mode & 0o077 == 0


def test_certificates_are_the_authoritys(store: Path) -> None:
    authority = x509.load_pem_x509_certificate((store / "public" / "ca.cert.pem").read_bytes())
    for enclave in ALLOWED:
        place = store / "enclaves" / enclave.strip("/")
        certificate = x509.load_pem_x509_certificate((place / "cert.pem").read_bytes())
        certificate.verify_directly_issued_by(authority)
        assert certificate.subject.rfc4514_string() == f"CN={enclave}"
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        key = serialization.load_pem_private_key((place / "key.pem").read_bytes(), None)
        assert key.public_key() == certificate.public_key()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_documents_are_signed(store: Path) -> None:
    for name in ("governance", "permissions"):
        file = store / "enclaves" / "carm" / "agent_node" / f"{name}.p7s"
        check = ["openssl", "smime", "-verify", "-text", "-CAfile", str(store / "public" / "ca.cert.pem"), "-in"]
        done = subprocess.run([*check, str(file)], capture_output=True)
        assert done.returncode == 0, done.stderr
        ET.fromstring(done.stdout.replace(b"\r\n", b"\n"))
        forged = store / "forged.p7s"
        forged.write_bytes(file.read_bytes().replace(b"DENY", b"ALLOW").replace(b">ENCRYPT<", b">NONE<"))
        assert subprocess.run([*check, str(forged)], capture_output=True).returncode != 0


def test_permissions_say_what_the_table_says(store: Path) -> None:
    root = ET.parse(store / "enclaves" / "carm" / "agent_node" / "permissions.xml").getroot()
    assert root.findtext("permissions/grant/subject_name") == "CN=/carm/agent_node"
    assert root.findtext("permissions/grant/default") == "DENY"
    rule = root.find("permissions/grant/allow_rule")
    assert rule is not None
    assert [child.tag for child in rule] == ["domains", "publish", "subscribe"]
    for kind in ("publish", "subscribe"):
        topics = {str(topic.text) for topic in rule.findall(f"{kind}/topics/topic")}
        assert topics == getattr(ALLOWED["/carm/agent_node"], kind)
    assert root.findtext("permissions/grant/validity/not_before") < root.findtext(
        "permissions/grant/validity/not_after"
    )  # type: ignore[operator]


def test_nobody_joins_without_a_certificate(store: Path) -> None:
    rule = ET.parse(store / "enclaves" / "governance.xml").getroot().find("domain_access_rules/domain_rule")
    assert rule is not None
    assert rule.findtext("allow_unauthenticated_participants") == "false"
    assert rule.findtext("enable_join_access_control") == "true"
    assert rule.findtext("topic_access_rules/topic_rule/enable_write_access_control") == "true"


def test_keys_are_kept_and_other_folders_left_alone(store: Path, tmp_path: Path) -> None:
    key = (store / "enclaves" / "carm" / "agent_node" / "key.pem").read_bytes()
    assert run(["security", "init", str(store), "namespace:=second"]) == 0
    assert run(["security", "init", str(store)]) == 0
    assert (store / "enclaves" / "carm" / "agent_node" / "key.pem").read_bytes() == key
    assert keystore.missing(store, ["/second/agent_node"]) == []
    (tmp_path / "file").write_text("mine")
    assert run(["security", "init", str(tmp_path)]) == 2
    assert run(["security", "init", str(tmp_path / "file")]) == 2
    assert run(["security", "init", str(tmp_path / "new"), "controler:=x"]) == 2
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]
    (tmp_path / "keys" / "public").mkdir(parents=True)
    (tmp_path / "keys" / "public" / "ca.cert.pem").write_text("no certificate")
    assert run(["security", "init", str(tmp_path / "keys")]) == 2


def test_processes_run_in_their_enclaves(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = graph.resolve([], "sim")
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert enclave_arguments("carm", OPERATOR) == []
    assert all("--enclave" not in launcher.node_command(spec, values).words for spec in graph.nodes(values))
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    with pytest.raises(ConfigurationError, match="ROS_SECURITY_KEYSTORE is not set"):
        enclave_arguments("/carm", OPERATOR)
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(store))
    assert enclave_arguments("/carm", OPERATOR) == ["--ros-args", "--enclave", "/carm/operator"]
    for spec in graph.nodes(values):
        words = launcher.node_command(spec, values).words
        assert words[words.index("--enclave") + 1] == f"/carm/{spec.name}"
    with pytest.raises(ConfigurationError, match="has no enclave /other/operator"):
        enclave_arguments("other", OPERATOR)


def test_the_doctor_says_who_can_command_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert "anyone on the network can command the arm" in str(doctor.check_security())
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert "every process on this machine can command the arm" in str(doctor.check_security())
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    assert "is not Enforce" in str(doctor.check_security())


def test_the_middleware_enforces_it_or_the_doctor_says_that_it_cannot(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheels of ROS 2 come without the security plugins of Fast DDS; those of apt have them."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "131")
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(store))
    finding = doctor.check_security()
    assert re.search("SROS2 is enforced" if finding.ok else "built without security", finding.detail)
