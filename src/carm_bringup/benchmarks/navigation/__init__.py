# SPDX-License-Identifier: Apache-2.0
"""``carm bench nav``: closed-loop navigation over seeded suites of episodes."""
