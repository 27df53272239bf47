# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of any Hugging Face image-text-to-text model with adapters of low rank (LoRA), in 4 bits where possible.

Hu et al., LoRA, 2021; Dettmers et al., QLoRA, 2023.
"""
