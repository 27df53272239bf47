# SPDX-License-Identifier: Apache-2.0
"""Registration of the patient's own CT to X-ray images: where the patient lies, to the millimeter."""
