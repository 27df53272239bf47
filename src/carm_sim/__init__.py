# SPDX-License-Identifier: Apache-2.0
"""Simulator: patients, X-ray physics, digitally reconstructed radiographs, and the X-ray node."""
