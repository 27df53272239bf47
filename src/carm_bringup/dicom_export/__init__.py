# SPDX-License-Identifier: Apache-2.0
"""Exposures as DICOM X-ray angiographic images, and their dose as a structured report. Knows nothing of ROS."""
