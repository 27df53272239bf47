# SPDX-License-Identifier: Apache-2.0
"""Push to talk: sentences of a closed grammar, recognized on this machine. Knows nothing of ROS."""
