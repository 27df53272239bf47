# SPDX-License-Identifier: Apache-2.0
"""The clinician's conversation: parsing, confirmation, actions, stop words."""
