# SPDX-License-Identifier: Apache-2.0
"""Rendering of phantoms: views, acquisition, images as seen."""
