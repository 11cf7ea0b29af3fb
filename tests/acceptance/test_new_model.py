"""A new version of the model as a site tries it: beside the old one, compared, promoted, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from chexnode.ledger.jobs import REUSED
from support.bundles import second_version
from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.senders import read_part10, store_file
from support.servers import LOOPBACK, StoreSCP, wait_for

IMAGES = 2


class Site:
    """A node and its archive."""

    def __init__(self, folder: Path) -> None:
        (folder / "archive").mkdir()
        self.archive = StoreSCP(folder / "archive")
        self.old = {"name": "old", "bundle": "phantom64", "device": "cpu"}
        self.new = {"name": "new", "bundle": str(second_version(folder / "shy", 0.999999)), "device": "cpu"}
        broken = {"name": "broken", "bundle": str(folder / "nowhere"), "mode": "shadow"}
        self.node = Node(
            folder / "node",
            model=[{**self.old, "mode": "deliver"}, {**self.new, "mode": "shadow"}, broken],
            destination=[loopback_destination("archive", "STORESCP", self.archive.port)],
            reanalysis={"per_minute": 0},
            worker={"decoders": 1},
        )

    def archived(self) -> list[Dataset]:
        return [pydicom.dcmread(path, stop_before_pixels=True) for path in self.archive.files()]

    def objects(self) -> set[str]:
        """SOP Instance UIDs of the results that it has, without notes."""
        return {str(d.SOPInstanceUID) for d in self.archived() if d.SOPClassUID != KeyObjectSelectionDocumentStorage}

    def valid(self) -> tuple[set[str], set[str]]:
        """The models of all valid results, and the UIDs of these."""
        ledger = self.node.ledger()
        try:
            sets = [one for job in ledger.views.jobs() for one in ledger.sets.valid(job.sop_instance_uid)]
        finally:
            ledger.close()
        return {one.spec.model for one in sets}, {member.uid for one in sets for member in one.members}

    def tried(self) -> list[str]:
        """The state of each job of a model on trial."""
        return [shadow["state"] for job in self.counting() for shadow in job["shadows"]]

    def counting(self) -> list[dict[str, Any]]:
        """What there is to know of the latest job of each image."""
        ledger = self.node.ledger()
        try:
            latest = {job.sop_instance_uid: job.id for job in reversed(ledger.views.jobs())}
            return [asdict(ledger.views.job(job)) for job in latest.values()]
        finally:
            ledger.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("models"))
    with site.archive, site.node.up:
        yield site


def test_a_new_model_is_tried_compared_promoted_and_taken_back(site: Site, tmp_path: Path) -> None:
    for file in phantom_files(tmp_path, IMAGES):
        assert store_file(site.node.port, read_part10(file)).status == 0
    site.node.wait_until_settled(IMAGES)
    of_old = check_trial(site)
    check_comparison(site)
    promote(site)
    of_new = check_reanalysis(site, of_old)
    check_rollback(site, of_old | of_new)


def check_trial(site: Site) -> set[str]:
    """The shadow has answered, its answer is shown, and the archive has but the results of the other."""
    wait_for(lambda: site.tried() == ["DONE"] * IMAGES, "the model on trial to have answered")
    models, valid = site.valid()
    assert models == {"phantom64 1"}
    assert site.objects() == valid
    account = site.node.account()
    assert (account["received"], account["analysed"]) == (IMAGES, IMAGES)
    for job in site.counting():
        [shadow] = job["shadows"]
        assert (shadow["model"], shadow["state"], shadow["abnormal"]) == ("phantom64 2", "DONE", False)
        assert (site.node.data_dir / shadow["answer_path"]).is_file()
    tried = site.node.json("jobs", "show", shadow["job"])
    assert (tried["purpose"], tried["results"], tried["deliveries"]) == ("shadow", [], [])
    assert "phantom64 2" in site.node.run("jobs", "show", job["id"]).stdout
    return valid


def check_comparison(site: Site) -> None:
    found = site.node.json("compare", "old", "new")
    abnormal = sum(bool(job["abnormal"]) for job in site.counting())
    assert abnormal > 0, "the phantoms have nothing to disagree on"
    cells = [found[name] for name in ("images", "both", "only_a", "only_b", "neither")]
    assert cells == [IMAGES, 0, abnormal, 0, IMAGES - abnormal]
    assert found["pearson"] == pytest.approx(1)  # the same weights
    assert len(found["discordant"]) == abnormal
    whole = site.node.run("compare", "old", "new").stdout
    for one in found["discordant"]:
        assert one["sop_instance_uid"] in whole
        assert one["study_instance_uid"] in whole
    over_http = httpx.get(f"http://{LOOPBACK}:{site.node.web_port}/api/compare", params={"a": "old", "b": "new"})
    assert over_http.json() == found


def promote(site: Site) -> None:
    site.node.up.stop()
    site.node.tables["model"] = [{**site.new, "mode": "deliver"}, {**site.old, "mode": "shadow"}]
    site.node.write_settings()
    site.node.up.start()


def check_reanalysis(site: Site, before: set[str]) -> set[str]:
    request = ("reanalyse", "--since", "yesterday", "--only-done")
    assert site.node.json(*request, "--dry-run")["queued"] == IMAGES
    url = f"http://{LOOPBACK}:{site.node.web_port}/api/reanalysis"
    everything = {"since": "yesterday"}
    assert httpx.post(url, json=everything, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert httpx.post(url, json={}).status_code == 400
    answer = httpx.post(url, json={"since": "yesterday", "only_done": True})
    assert (answer.status_code, answer.json()["queued"], answer.json()["model"]) == (200, IMAGES, "phantom64 2")
    site.node.wait_until_settled(2 * IMAGES)
    assert site.node.json(*request)["queued"] == 0
    models, valid = site.valid()
    assert (models, valid & before) == ({"phantom64 2"}, set())
    assert site.objects() == before | valid
    check_withdrawn(site, 1)
    for job in site.counting():
        assert (job["purpose"], job["abnormal"]) == ("reanalysis", False)
        # What the model had said on trial: it was not asked again.
        assert [e["detail"] for e in job["events"] if e["event"] == "analysed"] == [REUSED]
    return valid


def check_rollback(site: Site, before: set[str]) -> None:
    request = ("reanalyse", "rollback", "--since", "yesterday")
    assert site.node.json(*request)["queued"] == IMAGES
    site.node.wait_until_settled(3 * IMAGES)
    assert site.node.json(*request)["queued"] == 0
    models, valid = site.valid()
    assert (models, valid & before) == ({"phantom64 1"}, set())
    assert site.objects() == before | valid
    check_withdrawn(site, 2)
    for job in site.counting():
        assert job["purpose"] == "rollback"
        assert [e["detail"] for e in job["events"] if e["event"] == "analysed"] == [REUSED]
    account = site.node.account()
    assert (account["received"], account["analysed"]) == (IMAGES, IMAGES)


def check_withdrawn(site: Site, times: int) -> None:
    """Every image has had that many sets withdrawn by a note."""
    notes = [ds for ds in site.archived() if ds.SOPClassUID == KeyObjectSelectionDocumentStorage]
    assert len(notes) == times * IMAGES
