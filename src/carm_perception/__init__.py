# SPDX-License-Identifier: Apache-2.0
"""Where the landmarks are in an X-ray image: text protocols, localizers, their training and their evaluation."""
