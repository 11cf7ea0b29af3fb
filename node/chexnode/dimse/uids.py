"""Well-known UIDs of the DICOM protocol itself (PS3.6 annex A)."""

IMPLICIT_VR, EXPLICIT_VR = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
PUSH_MODEL = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its one, well-known instance."""
