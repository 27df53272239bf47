# SPDX-License-Identifier: Apache-2.0
"""``carm bench nav``: the whole loop over seeded suites of episodes."""
