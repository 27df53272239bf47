# SPDX-License-Identifier: Apache-2.0
"""What the commands share: arguments and files of results."""
