# SPDX-License-Identifier: Apache-2.0
"""Any server of the OpenAI chat completions API as a localizer."""
