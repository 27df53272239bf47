# SPDX-License-Identifier: Apache-2.0
"""Records of answers, judges, figures of merit, published figures."""
