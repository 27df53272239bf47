# SPDX-License-Identifier: Apache-2.0
"""How sure a localizer may claim to be: conformal radii, abstention with a stated risk, images that show no body."""
