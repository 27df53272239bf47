# SPDX-License-Identifier: Apache-2.0
"""Collision model: solids, obstacles, clearance, continuous checks of paths.

The planner (``carm_agent.planning``) checks its paths with it, the supervisor (``carm_control.supervision``) what the
arm does.
"""
