# SPDX-License-Identifier: Apache-2.0
"""Evaluation of classifiers of body parts."""
