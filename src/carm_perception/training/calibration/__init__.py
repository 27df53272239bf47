# SPDX-License-Identifier: Apache-2.0
"""Fitting a calibration to a model."""
