# SPDX-License-Identifier: Apache-2.0
"""The renderer: shear-warp factorization of the cone-beam projection, on the CPU."""
