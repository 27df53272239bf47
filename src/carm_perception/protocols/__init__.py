# SPDX-License-Identifier: Apache-2.0
"""Text protocols: prompts, grammars, parsers, and what a remark says."""
