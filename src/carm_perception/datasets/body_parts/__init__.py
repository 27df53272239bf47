# SPDX-License-Identifier: Apache-2.0
"""Generated radiographs of all body parts, labeled, and the competition's own folder."""
