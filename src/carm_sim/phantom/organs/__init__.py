# SPDX-License-Identifier: Apache-2.0
"""Soft tissue of the generated bodies: chest, abdomen, envelope."""
