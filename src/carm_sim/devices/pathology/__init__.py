# SPDX-License-Identifier: Apache-2.0
"""Findings and fractures."""
