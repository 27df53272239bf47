# SPDX-License-Identifier: Apache-2.0
"""One's own images: pictures and DICOM files, localized without a graph."""
