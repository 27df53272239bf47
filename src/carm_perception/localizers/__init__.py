# SPDX-License-Identifier: Apache-2.0
"""Localizers behind the seam ``carm_core.localization.Localizer``, and their registry."""
