# SPDX-License-Identifier: Apache-2.0
"""Training of the compact model: stages, augmentation, targets, checkpoints, export."""
