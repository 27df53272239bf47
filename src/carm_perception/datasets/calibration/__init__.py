# SPDX-License-Identifier: Apache-2.0
"""Views and negatives that a calibration is fitted on."""
