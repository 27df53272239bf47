# SPDX-License-Identifier: Apache-2.0
"""Collision model: solids, obstacles, clearance, continuous checks of paths."""
