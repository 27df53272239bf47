# SPDX-License-Identifier: Apache-2.0
"""The console for other machines: named users with passwords, over TLS. Knows nothing of ROS."""
