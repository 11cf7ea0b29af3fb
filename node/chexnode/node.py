"""Which analysis new images get: the model's digest and the settings that change a result. No torch: receivers ask."""

from __future__ import annotations

import hashlib
import json

from chexmodels.bundle import BundleError, digest, find, read_card
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.records import JobSpec


def job_spec(settings: Settings) -> JobSpec:
    """Read the configured bundle's card and digest. Raises BadEnvironment if it cannot serve these settings."""
    try:
        folder = find(settings.model.bundle)
        card = read_card(folder)
        model_digest = digest(folder)
    except BundleError as error:
        raise BadEnvironment(str(error)) from error
    if settings.model.operating_point not in card.operating_points:
        known = ", ".join(sorted(card.operating_points))
        raise BadEnvironment(f"{card.title} has no operating point {settings.model.operating_point!r}, only {known}")
    # Only what changes the analysis; destinations and names do not.
    relevant = {"operating_point": settings.model.operating_point}
    settings_digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
    return JobSpec(card.title, model_digest, settings_digest)
