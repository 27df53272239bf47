# SPDX-License-Identifier: Apache-2.0
"""Suites of images, distribution shifts, and the cache of their cases."""
