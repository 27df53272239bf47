# SPDX-License-Identifier: Apache-2.0
"""Training of the compact classifier of body parts."""
