"""No patient data where none belongs: a whole node at its most talkative, given every test image there is, and every
name, number and date in them looked for in what it logs, counts and shows.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydicom import DataElement, Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from chexnode.vocabulary.reasons import Reason
from support.collectors import Collector
from support.nodes import Node, Process
from support.senders import CR_IMAGE, Aborted, Refused, Sender, an_image, read_part10, store_file
from support.servers import LOOPBACK, wait_for

#: Value representations of names, numbers, places and comments; those of UIDs, codes, sizes and times are not.
IDENTIFYING_VRS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC"}

#: What says nothing of a person: products, algorithms and units; parts of the body; words of forms.
HARMLESS = {
    "BodyPartExamined",
    "CodeMeaning",
    "CodeValue",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "SourceApplicationEntityTitle",
    "TransmitCoilName",
}

ACCESSION = "AccessionNumber"


class Loud(Process):
    """``chexnode up`` that logs everything it can."""

    def command(self) -> list[str | Path]:
        command = list(super().command())
        return [*command[:3], "--log-level", "debug", *command[3:]]


@pytest.fixture
def log() -> Iterator[Collector]:
    with Collector("tcp") as collector:
        yield collector


@pytest.fixture
def node(tmp_path: Path, log: Collector) -> Node:
    made = Node(
        tmp_path / "node",
        study={"quiet_seconds": 1},
        audit={"url": log.url},
        destination=[
            {"name": "out", "kind": "folder", "path": "out", "not_analysed": True},
            {"name": "gone", "ae_title": "GONE", "host": LOOPBACK, "port": 9, "timeout_seconds": 1},
        ],
    )
    made.up = Loud(made, "up")
    return made


Values = dict[str, set[str]]
"""Value -> keywords of the elements that had it."""


def identifying(ds: Dataset) -> Iterator[tuple[str, str]]:
    """Yield (value, keyword) of everything in ``ds`` that could tell who it is about, items of sequences included."""
    for tag in list(ds.keys()):
        with suppress(Exception):  # a malformed value that cannot be read: its raw bytes count, below
            element = ds[tag]
            if element.VR == "SQ":
                for item in element.value:
                    yield from identifying(item)
            elif element.keyword not in HARMLESS:
                for text in _texts(element):
                    yield text, element.keyword or str(tag)


def _texts(element: DataElement) -> Iterator[str]:
    if element.VR not in IDENTIFYING_VRS and element.keyword not in ("PatientBirthDate", "PatientBirthTime"):
        return
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    for value in values:
        if isinstance(value, PersonName):
            for group in (value.alphabetic, value.ideographic, value.phonetic):
                yield from (part.strip() for part in [group, *group.split("^")])
        else:
            yield str(value).strip()


def people(folder: Path) -> Values:
    """What is in all test images; values of fewer than four characters are everywhere."""
    found: Values = defaultdict(set)
    for path in sorted(folder.rglob("*.dcm")):
        part = read_part10(path)
        with warnings.catch_warnings(), suppress(Exception):
            warnings.simplefilter("ignore")
            for text, keyword in identifying(dcmread(path, force=True, stop_before_pixels=True)):
                found[text].add(keyword)
        # However broken the file is: name and number as they stand in Explicit VR.
        for raw in re.findall(rb"\x10\x00[\x10\x20]\x00(?:PN|LO)(..)([^\0]{4,64})", part.data, re.DOTALL):
            text = raw[1][: int.from_bytes(raw[0], "little")].decode("latin-1")
            found[text.strip()].add("raw")
    return {text: keywords for text, keywords in found.items() if len(text) >= 4 and re.search(r"\w{3}", text)}


def revealed(text: str, values: Values) -> Values:
    """Those of ``values`` that stand in ``text`` as words of their own."""
    return {
        value: keywords
        for value, keywords in values.items()
        if value in text and re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", text)
    }


def log_lines(node: Node) -> list[dict[str, Any]]:
    """Every line that the node has written, to its end; each is JSON."""
    return [json.loads(line) for line in node.up.log.read_text("ascii").splitlines()]


def plain(lines: list[dict[str, Any]], node: Node) -> str:
    """The lines as a person would read them, without where the test keeps its files."""
    return "\n".join(str(line) for line in lines).replace(str(node.folder), "")


def wait_until_analysed(node: Node) -> None:
    """Wait until no job is waiting or running, and what can be delivered is."""
    ledger = node.ledger()
    try:
        wait_for(lambda: not ledger.views.jobs(["QUEUED", "RUNNING"]), "all images to be analysed", 180, every=0.2)
        wait_for(lambda: not ledger.views.deliveries(["PENDING"], "out"), "all results to be written", 60, every=0.2)
    finally:
        ledger.close()


@pytest.mark.shared
def test_no_log_line_no_metric_and_no_page_names_a_patient(node: Node, log: Collector, shared: Path) -> None:
    folder = shared / "data" / "dicom"
    values = people(folder)
    assert {"PatientName", "PatientID", "PatientBirthDate", ACCESSION} <= set().union(*values.values())
    stored = 0
    with node.up:
        for path in sorted(folder.rglob("*.dcm")):
            part = read_part10(path)
            part = part if part.sop_class_uid else replace(part, sop_class_uid=CR_IMAGE)
            stored += store_file(node.port, part).status == 0
        wait_until_analysed(node)
        pages = {
            path: httpx.get(f"http://{LOOPBACK}:{node.web_port}{path}", timeout=60).text
            for path in ("/metrics", "/health/ready", "/api/account", "/api/deliveries?limit=10000", "/api/jobs")
        }
        some = [job["id"] for job in json.loads(pages["/api/jobs"])][:10]
        for job in some:
            pages[f"/api/jobs/{job}"] = httpx.get(f"http://{LOOPBACK}:{node.web_port}/api/jobs/{job}").text
    assert stored > 100
    lines = log_lines(node)
    assert {line["level"] for line in lines} >= {"debug", "info", "warning"}
    assert revealed(plain(lines, node), values) == {}
    for path, page in pages.items():
        # Which image a job is of is told by its accession number, on purpose.
        hidden = {v: k for v, k in values.items() if ACCESSION not in k} if path.startswith("/api/jobs") else values
        text = page if path == "/metrics" else str(json.loads(page))
        assert revealed(text.replace(str(node.folder), ""), hidden) == {}, path

    # The test can find them: they are where they belong, in the audit trail.
    told = b"\n".join(log.raw).decode()
    assert {"PatientName", "PatientID"} <= set().union(*revealed(told, values).values())
    assert {one.event for one in log.told} >= {"DICOM Instances Transferred", "Export"}


HOSTILE = b"\x1b[31mX\r\nlevel=error\x00 forged=1"


def test_what_strangers_write_forges_nothing(node: Node, log: Collector) -> None:
    with node.up:
        for title in ("E\x1b[2J\nforged=1", "<b>\"'&forged=1"):
            with pytest.raises((Aborted, Refused)):
                Sender(node.port, calling=title, called=title)
        image = an_image(
            "1.2.3.77",
            _00080060=b"\x1b[1mCR\n",
            _00100010=HOSTILE,
            _00100020=HOSTILE,
            _00180015=HOSTILE,
            _00185101=HOSTILE,
            _00280004=b"MONO\nCHROME\x1b2",
            _00080050=HOSTILE,
        )
        assert store_file(node.port, image).status in (0, 0xC000)
        assert store_file(node.port, an_image("1.2.3.78", _00080050=HOSTILE, _00100010=HOSTILE)).status == 0
        wait_until_analysed(node)
        address = f"http://{LOOPBACK}:{node.web_port}"
        metrics, jobs = httpx.get(f"{address}/metrics").text, httpx.get(f"{address}/api/jobs").text
        tables = [node.run(*command).stdout for command in (["jobs"], ["account"], ["deliveries"])]
        tables.append(node.run("jobs", "show", json.loads(jobs)[0]["id"]).stdout)
        log.wait_for("Security Alert/Node Authentication")
    raw = node.up.log.read_bytes()
    assert b"\x1b" not in raw
    assert all(line.get("forged") is None for line in log_lines(node)), "and each line is one JSON object"
    for text in (metrics, jobs, *tables):
        assert "\x1b" not in text
        assert not any(line.startswith(("forged", "level=error")) for line in text.splitlines())
    samples = [s for family in text_string_to_metric_families(metrics) for s in family.samples]
    reasons = {s.labels["reason"] for s in samples if s.name == "chexnode_instances"}
    assert reasons <= {reason.value for reason in Reason} | {""}
    assert not any(b"\x1b" in content or b"\n" in content for content in log.raw)
