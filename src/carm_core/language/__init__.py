# SPDX-License-Identifier: Apache-2.0
"""Commands that a sentence can carry, and landmarks that it mentions."""
