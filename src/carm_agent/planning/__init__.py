# SPDX-License-Identifier: Apache-2.0
"""Motion planning: views, detours, timed paths, previews, saved positions."""
