# SPDX-License-Identifier: Apache-2.0
"""Data sets of rendered X-ray views with the positions of all landmarks."""
