"""Two models on the same images: how far they agree, and where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation

from sqlalchemy import ColumnElement, FromClause, and_, select

from chexnode.ledger.database import Database
from chexnode.ledger.narrowing import of_instances
from chexnode.ledger.rows import columns_for
from chexnode.ledger.schema import instances, jobs, studies
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import JobSpec
from chexnode.vocabulary.reports import Comparison, Discordance
from chexnode.vocabulary.states import JobState


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of two models to one version of an image."""

    accession_number: str | None
    study_instance_uid: str | None
    sop_instance_uid: str
    digest: str
    abnormal_a: bool | None
    abnormal_b: bool | None
    score_a: float | None
    score_b: float | None
    job_a: str
    job_b: str


class Comparisons:
    """Compares the answers of two models on images that both have analysed."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def analyses(self, model: str) -> list[JobSpec]:
        """The analyses that the ledger knows of the model with this name and version, the latest first."""
        query = select(jobs.c.model, jobs.c.model_digest, jobs.c.settings_digest).where(jobs.c.model == model)
        with self._db.read() as conn:
            rows = conn.execute(query.order_by(jobs.c.created_at.desc()).limit(10_000))
            return list(dict.fromkeys(JobSpec(*row) for row in rows))

    def pairs(self, a: JobSpec, b: JobSpec, wanted: Filter) -> list[Pair]:
        """The versions that both have answered, with the latest answer of each, in the order of their UIDs."""
        of_a, of_b = jobs.alias("of_a"), jobs.alias("of_b")
        named: dict[str, ColumnElement[object]] = {
            f"{name}_{letter}": table.c["id" if name == "job" else name]
            for letter, table in (("a", of_a), ("b", of_b))
            for name in ("abnormal", "score", "job")
        }
        query = (
            select(*columns_for(Pair, instances, studies, **named))
            .select_from(instances)
            .join(of_a, _answers(of_a, a))
            .join(of_b, _answers(of_b, b))
            .outerjoin(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
            .where(*of_instances(wanted))
            .order_by(instances.c.sop_instance_uid, instances.c.digest, of_a.c.created_at, of_b.c.created_at)
        )
        with self._db.read() as conn:
            latest = {(row["sop_instance_uid"], row["digest"]): row for row in conn.execute(query).mappings()}
        return [Pair(**row) for row in latest.values()]


def _answers(table: FromClause, spec: JobSpec) -> ColumnElement[bool]:
    """The jobs of ``table`` in which ``spec`` answered a version."""
    return and_(
        table.c.sop_instance_uid == instances.c.sop_instance_uid,
        table.c.digest == instances.c.digest,
        table.c.model_digest == spec.model_digest,
        table.c.settings_digest == spec.settings_digest,
        table.c.state.in_((JobState.DELIVERING, JobState.DONE)),
    )


def compare(a: str, b: str, pairs: Sequence[Pair], link: Callable[[str], str | None]) -> Comparison:
    """Add up what two models, ``a`` and ``b``, say; ``link``: from a Study Instance UID to where it is shown.

    An image that one of them could not evaluate is in no figure but ``not_evaluated``.
    """
    evaluated = [pair for pair in pairs if pair.abnormal_a is not None and pair.abnormal_b is not None]
    cells = Counter((bool(pair.abnormal_a), bool(pair.abnormal_b)) for pair in evaluated)
    both, only_a, only_b, neither = (
        cells[cell] for cell in ((True, True), (True, False), (False, True), (False, False))
    )
    scores = [(p.score_a, p.score_b) for p in evaluated if p.score_a is not None and p.score_b is not None]
    of_a, of_b = [x for x, _ in scores], [y for _, y in scores]
    discordant = [pair for pair in evaluated if pair.abnormal_a != pair.abnormal_b]
    discordant.sort(key=lambda pair: -abs((pair.score_a or 0.0) - (pair.score_b or 0.0)))
    count = len(evaluated)
    return Comparison(
        model_a=a,
        model_b=b,
        images=count,
        not_evaluated=len(pairs) - count,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        agreement=(both + neither) / count if count else None,
        kappa=kappa(both, only_a, only_b, neither),
        pearson=_correlated(of_a, of_b),
        spearman=_correlated(ranks(of_a), ranks(of_b)),
        discordant=tuple(_discordance(pair, link) for pair in discordant),
    )


def _discordance(pair: Pair, link: Callable[[str], str | None]) -> Discordance:
    study = pair.study_instance_uid or ""
    return Discordance(
        accession_number=pair.accession_number,
        study_instance_uid=study,
        sop_instance_uid=pair.sop_instance_uid,
        abnormal_a=bool(pair.abnormal_a),
        abnormal_b=bool(pair.abnormal_b),
        score_a=pair.score_a,
        score_b=pair.score_b,
        job_a=pair.job_a,
        job_b=pair.job_b,
        link=link(study) if study else None,
    )


def kappa(both: int, only_a: int, only_b: int, neither: int) -> float | None:
    """Cohen's kappa of two readers with two answers; None where chance alone would have them agree on everything."""
    count = both + only_a + only_b + neither
    if not count:
        return None
    by_a, by_b = both + only_a, both + only_b
    expected = (by_a * by_b + (count - by_a) * (count - by_b)) / count**2
    if expected == 1:
        return None
    return ((both + neither) / count - expected) / (1 - expected)


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1 on; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            ranked[index] = (start + end) / 2 + 1
        start = end + 1
    return ranked


def _correlated(a: Sequence[float], b: Sequence[float]) -> float | None:
    try:
        return correlation(a, b)
    except StatisticsError:  # fewer than two, or one of both does not vary
        return None
