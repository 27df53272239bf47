# SPDX-License-Identifier: Apache-2.0
"""Joint-space planner, navigation policy and clinician dialogue of the C-arm.

Everything outside ``carm_agent.nodes`` runs without ROS. The agent sees X-ray images, joint positions and what a
localizer says about an image; it never sees where a landmark truly is.
"""
