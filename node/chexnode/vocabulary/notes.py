"""What was noticed about an image that was analysed all the same, as codes."""

from __future__ import annotations

from enum import StrEnum


class Note(StrEnum):
    """What was noticed about an image that was analysed all the same."""

    VIEW_UNKNOWN = "view-unknown"
    """View Position is absent or says nothing."""
    BODY_PART_UNKNOWN = "body-part-unknown"
    """Body Part Examined is absent."""
    VIEW_CONTRADICTORY = "view-contradictory"
    """View Position says frontal and a description or Patient Orientation lateral or oblique."""
    BODY_PART_CONTRADICTORY = "body-part-contradictory"
    """Body Part Examined says chest and a description names another part."""
    CHILD = "child"
    """The patient is known to be younger than ``[gate] child_years``; the model learnt from adults."""
    AGE_UNKNOWN = "age-unknown"
    """The patient's age is absent or cannot be read."""
    POLARITY_DOUBTFUL = "polarity-doubtful"
    """The picture looks inverted: the border is brighter than the mediastinum."""
    ORIENTATION_DOUBTFUL = "orientation-doubtful"
    """The picture looks upside down or rotated."""
    SCOPE_DOUBTFUL = "scope-doubtful"
    """The picture does not look like a frontal chest radiograph, whichever way it is turned."""
    OUT_OF_DISTRIBUTION = "out-of-distribution"
    """The model finds the image unlike those that it learnt from: a finding stands, "no finding" is not said."""
    BURNED_IN = "burned-in-annotation"
    """Burned In Annotation (0028,0301) is YES."""
    LOSSY = "lossy"
    """The image went through lossy compression."""
    SPACING_UNKNOWN = "spacing-unknown"
    """No usable Imager Pixel Spacing or Pixel Spacing."""
    NOT_CONFORMANT = "not-conformant"
    """The data set breaks a rule of encoding (PS3.5) beside the image, which is whole: it was read past."""
    WINDOW_IGNORED = "window-ignored"
    """A VOI window or LUT was present but invalid, and was ignored."""
    WINDOW_CLIPS = "window-clips"
    """The VOI window or LUT cuts off an unusual share of the anatomy; the model sees what it leaves."""
    MODALITY_LUT_IGNORED = "modality-lut-ignored"
    """A Modality LUT or rescale was present but invalid, and was ignored."""
    POLARITY_CONTRADICTORY = "polarity-contradictory"
    """Photometric Interpretation and Presentation LUT Shape contradict each other."""
    SITE_RULE = "site-rule"
    """A rule of the site (``[[rule]]``) had it analysed although the gate would not have."""
    SHUTTER_APPLIED = "shutter-applied"
    """A Display Shutter covers part of the image: the model did not see it."""
    CODESTREAM_DIFFERS = "codestream-differs"
    """The compressed samples have another sign or depth than the header says; the samples are right."""
    MODELS_DISAGREE = "models-disagree"
    """Two models of a stack differ on whether anything is abnormal; the localiser's answer stands."""
    MODEL_OUTPUT_INVALID = "model-output-invalid"
    """The model answered with nothing, NaN or infinity: the image counts as not evaluated, never as negative."""


NOT_EVALUATED = frozenset({Note.POLARITY_DOUBTFUL, Note.SCOPE_DOUBTFUL})
"""So doubtful that what the model answers is no answer."""
NEVER_NEGATIVE = NOT_EVALUATED | {
    Note.ORIENTATION_DOUBTFUL,
    Note.OUT_OF_DISTRIBUTION,
    Note.VIEW_CONTRADICTORY,
    Note.BODY_PART_CONTRADICTORY,
}
"""Doubtful: a finding stands, but "no finding" is not said of it."""
