# SPDX-License-Identifier: Apache-2.0
"""Who recognizes the body parts in radiographs: the compact network, or any large model."""
