# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: navigation, rendering, planning, streaming, dialogue."""
