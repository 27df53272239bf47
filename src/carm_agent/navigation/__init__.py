# SPDX-License-Identifier: Apache-2.0
"""The navigation policy: state machine, landmark filter, search, budget."""
