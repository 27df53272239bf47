# SPDX-License-Identifier: Apache-2.0
"""Evaluation of localizers: suites of images, questions, figures, reports. See docs/evaluation.md."""
