# SPDX-License-Identifier: Apache-2.0
"""The data set on disk: shards, specifications, data card."""
