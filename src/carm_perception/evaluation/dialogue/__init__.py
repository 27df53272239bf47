# SPDX-License-Identifier: Apache-2.0
"""Evaluation of the conversation: sentences, corrections, a simulated clinician."""
