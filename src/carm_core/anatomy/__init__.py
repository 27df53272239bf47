# SPDX-License-Identifier: Apache-2.0
"""Axes of bones: what "lateral" and "in line with the end plates" mean for one vertebra, the pelvis or a shoulder."""
