# SPDX-License-Identifier: Apache-2.0
"""The C-arm as a robot: kinematics, trajectories, description, shapes, inertia."""
