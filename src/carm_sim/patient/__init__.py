# SPDX-License-Identifier: Apache-2.0
"""Patients: volumes, surfaces, and their place on the table."""
