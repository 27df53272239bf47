# SPDX-License-Identifier: Apache-2.0
"""Replay of a recording and comparison with what was recorded."""
