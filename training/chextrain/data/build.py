"""From rows to a collection: sizes from the headers, boxes clipped, readers joined, splits assigned, all checked."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chextrain.data.cases import Box, Case, Collection, Label, Mark
from chextrain.data.consensus import Agreed, agree, without_repeats
from chextrain.data.images import BadImage, ImageHeader, header, load_case
from chextrain.data.kinds import Consensus
from chextrain.data.processes import watched
from chextrain.data.rows import BadData, ImageFacts, Listing, Problem, Row
from chextrain.data.splits import assign, straddling

READ_AT_ONCE = 8
"""Headers: the disk is waited for, not the processor."""


@dataclass(frozen=True)
class Built:
    """A collection, and what was done and found on the way to it."""

    collection: Collection
    problems: tuple[Problem, ...]
    """With any of these the collection lacks images, and nothing should be trained on it."""
    clipped: int
    """Boxes that reached over the edge of their image."""
    dropped: int
    """Boxes of no area, after clipping."""
    repeated: int
    """Boxes that one reader drew twice."""
    hashed: frozenset[str] = frozenset()
    """Ids of the images whose split the data set does not name."""


def build(listing: Listing, consensus: Consensus = Consensus.SOFT, seed: int = 0, *, probe: bool = True) -> Built:
    """Make cases of the rows of ``listing``. With ``probe=False`` no file is opened: all sizes must be declared."""
    by_image: dict[str, list[Row]] = defaultdict(list)
    for row in listing.rows:
        by_image[row.image_id].append(row)
    order = {image_id: index for index, image_id in enumerate(listing.where)}
    problems = list(listing.problems)

    def bad(image_id: str, reason: str) -> None:
        file, number = listing.where.get(image_id, (listing.name, 0))
        problems.append(Problem(file, number, image_id, reason))

    counts: Counter[str] = Counter()
    cases = []
    in_order = sorted(by_image, key=lambda image_id: order.get(image_id, len(order)))
    headers = _headers({image_id: by_image[image_id][0] for image_id in in_order}, listing, probe=probe)
    for image_id, found in headers:
        rows = by_image[image_id]
        if isinstance(found, BadImage):
            bad(image_id, str(found))
        elif contradiction := _contradiction(rows):
            bad(image_id, contradiction)
        else:
            cases.append(_case(rows, found, listing, consensus, seed, counts))
    for group, splits in straddling(cases).items():
        members = [case.image_id for case in cases if case.group == group]
        bad(members[0], f"group {group} is in {' and '.join(splits)}: {', '.join(members[:6])}")
    for path, names in _shared(cases).items():
        bad(names[0], f"{path.name} is also {', '.join(names[1:])}: one image under several names")
    several = any(len(case.panel) > 1 for case in cases)
    collection = Collection(
        listing.name,
        tuple(cases),
        load_case,
        listing.description,
        listing.licence,
        matched=listing.matched,
        soft=consensus is Consensus.SOFT and several,
    )
    hashed = frozenset(row.image_id for row in listing.rows if row.split is None)
    return Built(collection, tuple(problems), counts["clipped"], counts["dropped"], counts["repeated"], hashed)


def usable(built: Built) -> Collection:
    """The collection, if nothing was wrong with its rows; raises ``BadData``."""
    if built.problems:
        raise BadData.of(built.problems)
    if not built.collection.cases:
        raise BadData(f"{built.collection.name}: no images")
    return built.collection


def _headers(
    first: Mapping[str, Row], listing: Listing, *, probe: bool
) -> Iterator[tuple[str, ImageHeader | BadImage]]:
    if not probe:
        for image_id in first:
            size = listing.facts[image_id].size
            yield image_id, ImageHeader(*size) if size else BadImage("no size is declared")
        return

    def read(row: Row) -> ImageHeader | BadImage:
        try:
            return header(row.image_path)
        except BadImage as error:
            return error

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        answers = pool.map(read, first.values())
        yield from zip(first, watched(answers, "reading headers", len(first)), strict=True)


def _shared(cases: Sequence[Case]) -> dict[Path, list[str]]:
    """Files that several cases show -> their image ids."""
    names: dict[Path, list[str]] = defaultdict(list)
    for case in cases:
        if case.path is not None:
            names[Path(os.path.abspath(case.path))].append(case.image_id)
    return {path: ids for path, ids in names.items() if len(ids) > 1}


def _contradiction(rows: Sequence[Row]) -> str | None:
    """Why the rows of one image cannot all be true."""
    checks: tuple[tuple[str, Callable[[Row], object]], ...] = (
        ("files", lambda row: row.image_path),
        ("groups", lambda row: row.group),
        ("splits", lambda row: row.split),
    )
    for what, value in checks:
        if len(values := {value(row) for row in rows}) > 1:
            return f"several {what}: {', '.join(sorted(str(v) for v in values))}"
    for reader in {row.reader for row in rows if row.finding is None}:
        if named := sorted({row.finding for row in rows if row.reader == reader and row.finding}):
            return f"{reader} found nothing, and {', '.join(named)}"
    return None


def _case(
    rows: Sequence[Row], found: ImageHeader, listing: Listing, consensus: Consensus, seed: int, counts: Counter[str]
) -> Case:
    row, facts = rows[0], listing.facts.get(rows[0].image_id, ImageFacts())
    declared = facts.size or (found.rows, found.columns)
    scale = found.columns / declared[1], found.rows / declared[0]
    drawn = []
    for box, finding, reader in ((box, r.finding, r.reader) for r in rows for box in r.boxes):
        clipped = _clipped(box, scale, found, counts)
        if clipped is not None:
            drawn.append(Mark(clipped, str(finding), reader))
    marks = tuple(drawn)
    if listing.known_panel:
        marks = without_repeats(marks)
        counts["repeated"] += len(drawn) - len(marks)
    panel = tuple(sorted({r.reader for r in rows}, key=_natural)) if listing.known_panel else ()
    agreed = agree(marks, panel, consensus) if listing.known_panel else _as_drawn(marks)
    votes = tuple(len(item.readers) for item in agreed)
    strata = {**found.strata, **facts.strata}
    if len(panel) > 1 and votes:
        strata["readers"] = f"{max(votes)} of {len(panel)}"
    return Case(
        image_id=row.image_id,
        group=row.group,
        split=row.split or assign(row.group, seed, listing.hashed),
        label=facts.label or _label(rows),
        boxes=tuple(item.box for item in agreed),
        rows=found.rows,
        columns=found.columns,
        expert=facts.expert,
        findings=frozenset(r.finding for r in rows if r.finding),
        exhaustive=facts.exhaustive,
        fold=facts.fold,
        reported=facts.reported,
        strata=strata,
        box_findings=tuple(item.findings for item in agreed),
        votes=votes,
        marks=marks,
        panel=panel,
        path=row.image_path,
    )


def _label(rows: Sequence[Row]) -> Label:
    """Normal by all readers, abnormal by all, or they differ whether there is anything."""
    abnormal = {row.reader for row in rows if row.finding is not None}
    readers = {row.reader for row in rows}
    return "normal" if not abnormal else "abnormal" if abnormal == readers else "conflict"


def _as_drawn(marks: Sequence[Mark]) -> tuple[Agreed, ...]:
    return tuple(Agreed(m.box, frozenset([m.finding]), frozenset([m.reader])) for m in marks)


def _clipped(box: Box, scale: tuple[float, float], found: ImageHeader, counts: Counter[str]) -> Box | None:
    across, down = scale
    moved = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    x0, x1 = (min(max(x, 0.0), float(found.columns)) for x in moved[::2])
    y0, y1 = (min(max(y, 0.0), float(found.rows)) for y in moved[1::2])
    if (x0, y0, x1, y1) != moved:
        counts["clipped"] += 1
    if x1 <= x0 or y1 <= y0:
        counts["dropped"] += 1
        return None
    return x0, y0, x1, y1


def _natural(reader: str) -> tuple[str, int]:
    """R2 before R10."""
    name = reader.rstrip("0123456789")
    return name, int(reader[len(name) :] or 0)
