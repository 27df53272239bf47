# SPDX-License-Identifier: Apache-2.0
"""CT import: NIfTI and DICOM files, processing, cache."""
