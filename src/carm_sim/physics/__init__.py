# SPDX-License-Identifier: Apache-2.0
"""X-ray physics: tube, attenuation, detector, exposure control and dose."""
