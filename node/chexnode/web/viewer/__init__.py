"""``/viewer``: OHIF on the node's own DICOMweb, and the page on which a browser shows its token."""
