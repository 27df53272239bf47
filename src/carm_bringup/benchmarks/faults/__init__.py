# SPDX-License-Identifier: Apache-2.0
"""``carm bench faults``: seeded episodes with faults in one process, judged independently of planner and supervisor."""
