# SPDX-License-Identifier: Apache-2.0
"""``carm bench register``: how well a CT is registered to X-ray images that it did not make."""
