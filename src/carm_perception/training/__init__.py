# SPDX-License-Identifier: Apache-2.0
"""Training of the compact multimodal LLM: architecture, tokenizer, augmentation, the two stages, export."""
