# SPDX-License-Identifier: Apache-2.0
"""Views in the axes of bones: how exactly they are reached, with and without the patient's CT."""
