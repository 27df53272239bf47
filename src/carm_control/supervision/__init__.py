# SPDX-License-Identifier: Apache-2.0
"""Supervision of the arm's motion: joint states that can be believed, where the arm will be, how fast it may be."""
