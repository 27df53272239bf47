# SPDX-License-Identifier: Apache-2.0
"""Bones of the generated bodies: shape, posture, landmarks."""
