# SPDX-License-Identifier: Apache-2.0
"""``carm serve``: a model of this project, or any Hugging Face one, behind the OpenAI chat completions API."""
