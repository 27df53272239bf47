# SPDX-License-Identifier: Apache-2.0
"""Any Hugging Face image-text-to-text model as a localizer."""
