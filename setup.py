# SPDX-License-Identifier: Apache-2.0
"""What a ROS 2 workspace needs beyond ``pyproject.toml``: index marker, launch files and configuration."""

from glob import glob

from setuptools import setup

setup(
    license="Apache-2.0",  # here, since setuptools before and after 77 want different forms in pyproject.toml
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/carm_bringup"]),
        ("share/carm_bringup", ["package.xml"]),
        ("share/carm_bringup/launch", glob("launch/*.launch.py")),
        ("share/carm_bringup/config", glob("config/*.yaml")),
        ("share/carm_bringup/meshes", glob("meshes/*.stl")),
        ("share/carm_bringup/rviz", glob("rviz/*")),
        ("share/carm_bringup/urdf", glob("urdf/*.xacro")),
        ("share/carm_bringup/worlds", glob("worlds/*.sdf")),
    ],
)
