# SPDX-License-Identifier: Apache-2.0
"""Uncertainty of localizers: conformal radii, abstention at a stated risk, images that show no body."""
