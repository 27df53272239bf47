# SPDX-License-Identifier: Apache-2.0
"""The graphs of ``carm_bringup.graph.description`` for ``ros2 launch``; each launch file calls ``describe``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

from carm_bringup.graph import description as graph
from carm_bringup.graph import gazebo, launcher
from carm_core.paths import cache_dir, config_file, share_dir
from carm_core.robot.kinematics import CArm
from carm_core.robot.urdf import Variant, urdf
from carm_ros.distribution import distribution
from carm_ros.security import enclave_arguments

STOP_PATIENCE_S = ("3", "1.5")
"""How long a process may take after SIGINT, and after SIGTERM, s: a node needs 2 s; all have ended within 5 s."""
CONTROLLERS = ("joint_state_broadcaster", "joint_trajectory_controller")
NOT_REPLAYED = ("landmarks", "landmarks/image", "localize/_action/feedback", "localize/_action/status")
"""Recorded topics that the replayed localizer publishes itself; they are played below ``recorded/``."""

Values = Mapping[str, graph.Value]


def describe(kind: str) -> LaunchDescription:
    """Declare the arguments of a graph and start what its values ask for.

    Args:
        kind: Key of ``carm_bringup.graph.description.ARGUMENTS_OF``.
    """
    arguments = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default_text,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in graph.ARGUMENTS_OF[kind]
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=lambda context: start(context, kind))])


def start(context: LaunchContext, kind: str) -> list[Any]:
    """Return the actions of a graph.

    Raises:
        ArgumentError: A value is not allowed, or a package that it needs is not installed.
    """
    known = [argument.name for argument in graph.ARGUMENTS_OF[kind]]
    words = [f"{name}:={context.launch_configurations[name]}" for name in known]
    here = str(context.get_locals_as_dict().get("current_launch_file_path", f"{kind}.launch.py"))
    values = graph.resolve([*graph.strangers(context.argv, known, sys.argv, here), *words], kind)
    pushed = context.launch_configurations.get("ros_namespace", "").strip("/")  # of a GroupAction around us
    if pushed:
        values["namespace"] = f"{pushed}{graph.namespace(values)}"
    require(values)
    around = _parameters_around(context)
    actions = [_node(spec, values, around) for spec in graph.nodes(values)]
    actions += {"gazebo": _gazebo, "mock": _mock_hardware, "replay": _player}.get(graph.stack(values), _nothing)(values)
    carm = ExecutableInPackage(package=graph.PACKAGE, executable="carm")
    if kind != "replay":
        options = ["--namespace", graph.namespace(values), "--patient", str(values["patient"])]
        options += ["--localizer", str(values["localizer"])]
        options += [] if graph.simulates_xray(values) else ["--no-exposure"]
        actions.append(ExecuteProcess(cmd=[carm, "wait", *options], name="carm", output="screen"))
    if values.get("record"):
        actions.append(ExecuteProcess(cmd=[carm, *graph.record_words(values)], name="record", output="screen"))
    if values.get("rviz"):
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(share_dir() / "rviz" / "carm.rviz"), *graph.viewer_words(values)],
                remappings=graph.viewer_remappings(values),
            )
        )
    return actions


def require(values: Values) -> None:
    """Make sure that the packages of ROS 2 that the values need are installed.

    Raises:
        ArgumentError: One of them is not; says how to get it.
    """
    wanted = (*graph.PACKAGES.get(graph.stack(values), ()), *(("rviz2",) if values.get("rviz") else ()))
    for package in wanted:
        try:
            get_package_share_directory(package)
        except PackageNotFoundError:
            argument, source = (
                ("rviz:=true", distribution().packages("rviz2")) if package == "rviz2" else graph.needs(values)
            )
            raise graph.ArgumentError(
                f"{argument} needs the ROS package {package}, which is not installed: install {source}"
            ) from None


def _parameters_around(context: LaunchContext) -> list[Any]:
    """Return what ``SetParameter`` and ``SetParametersFromFile`` of the launch file around us say.

    launch_ros passes it before a node's own parameters, so that our files in ``config/`` would always win.
    """
    around = context.launch_configurations.get("global_params", [])
    return [dict([entry]) if isinstance(entry, tuple) else entry for entry in around]


def _node(spec: graph.NodeSpec, values: Values, around: list[Any]) -> Node:
    """Return a node; the end of a vital one ends the graph."""
    return Node(
        package=graph.PACKAGE,
        executable=spec.executable,
        name=spec.name,
        namespace=graph.namespace(values),
        parameters=[str(config_file(spec.config)), *around, graph.parameters(spec, values)],
        remappings=list(graph.remappings(spec, values)),
        ros_arguments=enclave_arguments(graph.namespace(values), spec.name)[1:],
        output="screen",
        on_exit=_the_end(spec.name) if spec.vital else None,
        sigterm_timeout=STOP_PATIENCE_S[0],
        sigkill_timeout=STOP_PATIENCE_S[1],
    )


def _the_end(name: str) -> Callable[[ProcessExited, LaunchContext], None]:
    """Return what ends the graph with one of its processes, by an error: so ``ros2 launch`` ends with exit code 1."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise launcher.LaunchError(f"{name} ended ({launcher.describe_exit(event.returncode)}): stopping the graph")

    return on_exit


def _nothing(values: Values) -> list[Any]:
    del values
    return []


def _state_publisher(values: Values, variant: Variant) -> Node:
    """Return ``robot_state_publisher``, from which ros2_control takes the description."""
    description = ParameterValue(urdf(CArm.from_config(), variant), value_type=str)
    clock = {"use_sim_time": variant.hardware == "gazebo" or bool(values["use_sim_time"])}
    return Node(
        package="robot_state_publisher",
        executable="robot_state_publisher",
        namespace=graph.namespace(values),
        parameters=[{"robot_description": description}, clock],
        output="screen",
    )


def _spawner(values: Values) -> Node:
    """Return what starts the controllers and then ends."""
    manager = f"{graph.namespace(values)}/controller_manager"
    return Node(
        package="controller_manager",
        executable="spawner",
        namespace=graph.namespace(values),
        arguments=[*CONTROLLERS, "--controller-manager", manager, "--param-file", str(config_file("controllers.yaml"))],
        output="screen",
    )


def _gazebo(values: Values) -> list[Any]:
    """Return Gazebo with its world, the C-arm, the patient, the controllers, and the bridge for /clock."""
    share = share_dir()
    controllers = str(config_file("controllers.yaml"))
    meshes = (share / "meshes").as_uri()
    variant = Variant("gazebo", meshes, controllers, graph.namespace(values), graph.frame_prefix(values))
    ros_gz = Path(get_package_share_directory("ros_gz_sim")) / "launch" / "gz_sim.launch.py"
    server_only = "-s " if values["headless"] else ""
    simulator = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(ros_gz)),
        launch_arguments={
            "gz_args": f"-r {server_only}{share / 'worlds' / 'carm.sdf'}",
            "on_exit_shutdown": "true",
        }.items(),
    )
    bridge = Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        parameters=[{"config_file": str(config_file("gazebo_bridge.yaml"))}],
        output="screen",
    )
    description = f"{graph.namespace(values)}/robot_description"
    arm = _create(["-topic", description, "-name", "carm"])
    folder = cache_dir() / "gazebo" / "patient"
    writer = ExecuteProcess(
        cmd=[
            sys.executable,
            "-P",
            "-m",
            gazebo.__name__,
            "patient",
            "--patient",
            str(values["patient"]),
            "--output",
            str(folder),
        ],
        name="patient",
        output="screen",
    )
    patient = _create(["-file", str(folder / "patient.sdf"), "-name", "patient"])
    return [
        simulator,
        bridge,
        _state_publisher(values, variant),
        arm,
        writer,
        RegisterEventHandler(OnProcessExit(target_action=arm, on_exit=[_spawner(values)])),
        RegisterEventHandler(OnProcessExit(target_action=writer, on_exit=[patient])),
    ]


def _create(arguments: list[str]) -> Node:
    words = ["-world", gazebo.WORLD, *arguments]
    return Node(package="ros_gz_sim", executable="create", arguments=words, output="screen")


def _mock_hardware(values: Values) -> list[Any]:
    """Return ros2_control with hardware that repeats its commands, and the controllers."""
    manager = Node(
        package="controller_manager",
        executable="ros2_control_node",
        namespace=graph.namespace(values),
        parameters=[str(config_file("controllers.yaml"))],
        remappings=[("~/robot_description", "robot_description")],
        output="screen",
        on_exit=_the_end("ros2_control_node"),
    )
    return [
        _state_publisher(values, Variant("mock", frame_prefix=graph.frame_prefix(values))),
        manager,
        _spawner(values),
    ]


def _player(values: Values) -> list[Any]:
    """Return what plays the bag once the localizer is loaded, with the bag's time on /clock; its end ends the graph."""
    space = graph.namespace(values)
    remaps = [f"{space}/{topic}:={space}/recorded/{topic}" for topic in NOT_REPLAYED]
    play = ["ros2", "bag", "play", str(values["bag"]), "--clock", "--rate", str(values["speed"]), "--remap", *remaps]
    player = ExecuteProcess(cmd=play, name="bag", output="screen", on_exit=Shutdown(reason="the bag has ended"))
    carm = ExecutableInPackage(package=graph.PACKAGE, executable="carm")
    words = [carm, "wait", "--namespace", space, "--for-localizer"]
    ready = ExecuteProcess(cmd=words, name="carm", output="screen")
    return [ready, RegisterEventHandler(OnProcessExit(target_action=ready, on_exit=[player]))]
