# SPDX-License-Identifier: Apache-2.0
"""X-ray images and their geometry: frames, projection, triangulation."""
