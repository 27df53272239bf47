# SPDX-License-Identifier: Apache-2.0
"""``carm bench drr``: renderers side by side."""
