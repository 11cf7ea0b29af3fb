"""``/dicom-web``: QIDO-RS, WADO-RS and STOW-RS (PS3.18 chapter 10) over what the node holds."""
