# SPDX-License-Identifier: Apache-2.0
"""Neural networks and what they read and write: images, tokens, landmarks."""
