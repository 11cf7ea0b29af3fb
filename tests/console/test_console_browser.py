"""The console in a browser: what comes is seen to come, what is found lights up, and acts are carried out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from sqlalchemy import update

from chexnode.ledger.schema import sessions
from chexnode.vocabulary.roles import Role
from console.place import Place
from viewers.browser import Chromium

#: A whole node and a browser: `make console`.
pytestmark = pytest.mark.long

PASSWORD = "a password that is long"
#: What the browser itself says of a page that is refused.
EXPECTED = ["Failed to load resource: the server responded with a status of 403 (Forbidden)"]


@pytest.fixture
def page(chromium: Chromium, shown: Place) -> Iterator[Page]:
    """A page whose every complaint, a violation of the policy above all, fails the test."""
    page = chromium.page(of_ohif=False)
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    page.on(
        "request", lambda request: complaints.append(request.url) if not request.url.startswith(shown.url) else None
    )
    yield page
    page.context.close()
    assert [one for one in complaints if one not in EXPECTED] == []


def first_done(page: Page, shown: Place) -> None:
    page.goto(f"{shown.url}/console/images?state=DONE")
    page.locator("tbody a[data-row]").first.click()


def test_an_image_is_seen_to_come(page: Page, shown: Place) -> None:
    page.goto(shown.url)
    expect(page).to_have_url(f"{shown.url}/console")
    today = page.locator(".tile .big a").first
    before = int(today.inner_text())
    shown.send(shown.files[-1])
    expect(today).to_have_text(str(before + 1), timeout=60_000)
    shown.node.wait_until_settled(before + 1)
    page.get_by_role("link", name="Images", exact=True).click()
    page.locator("tbody a[data-row]").first.click()
    expect(page.locator(".timeline")).to_contain_text("received")


def test_the_picture_follows_the_pointer(page: Page, shown: Place) -> None:
    first_done(page, shown)
    stage = page.locator("[data-stage]")
    window = page.locator("[data-window]").inner_text()
    stage.hover(position={"x": 200, "y": 200})  # once it is there and stands still
    box = stage.bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 260, steps=4)
    page.mouse.up()
    expect(page.locator("[data-window]")).not_to_have_text(window)
    page.wait_for_selector("[data-drawn]")
    page.locator("[data-opacity]").fill("30")
    assert page.locator(".overlay").evaluate("one => one.style.opacity") == "0.3"
    page.locator("[data-split]").click()
    expect(page.locator(".bare")).to_be_visible()


def test_a_region_lights_up_in_the_picture_and_in_the_list(page: Page, shown: Place) -> None:
    page.goto(f"{shown.url}/console/images?abnormal=yes")
    page.locator("tbody a[data-row]").first.click()
    page.locator(".regions li").first.hover()
    expect(page.locator('polygon[data-region="1"]')).to_have_class(re.compile("lit"))


def test_what_was_given_up_is_sent_again(page: Page, shown: Place) -> None:
    page.goto(f"{shown.url}/console/deliveries")
    page.get_by_role("button", name="Send again").first.click()
    page.goto(f"{shown.url}/console/images?state=DONE")
    ledger = shown.node.ledger()
    try:
        events = [event.event for job in ledger.views.jobs() for event in ledger.views.job(job.id).events]
    finally:
        ledger.close()
    assert "replayed" in events


def test_a_destination_is_paused_and_resumed(page: Page, shown: Place) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{shown.url}/console/deliveries")
    row = page.locator("tr", has=page.get_by_role("button", name="Pause")).first
    row.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)


def test_results_are_withdrawn_after_a_question(page: Page, shown: Place) -> None:
    questions: list[str] = []
    page.on("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    first_done(page, shown)
    page.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text("withdrawn", exact=True).first).to_be_visible()
    expect(page.get_by_role("button", name="Withdraw")).to_have_count(0)
    assert "valid no longer" in questions[0]


def test_an_erasure_names_what_goes_and_asks(page: Page, shown: Place) -> None:
    first_done(page, shown)
    name = page.locator("h1 bdi").inner_text()
    page.get_by_role("link", name="Erase").click()
    expect(page.locator("main")).to_contain_text(name)
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page).to_have_url(re.compile("/erase"))
    assert page.locator("input[name=sure]").evaluate("one => one.validity.valueMissing"), "the browser holds it back"
    page.get_by_role("link", name="Leave it").click()
    expect(page.locator("[data-stage]")).to_be_visible()


def test_hostile_names_are_inert(page: Page, shown: Place) -> None:
    page.goto(f"{shown.url}/console/images")
    row = page.locator("td bdi", has_text="alert(1)").first
    assert row.inner_text() == "<script>alert(1)</script>, \\u202eEve"
    page.goto(f"{shown.url}/console/images?q=<script>alert(1)</script>")
    expect(page.locator('input[type="search"]')).to_have_value("<script>alert(1)</script>")


def test_a_search_finds_by_number_name_and_uid(page: Page, shown: Place) -> None:
    for words in ("A-2001", "P-1001", "okafor"):
        page.goto(f"{shown.url}/console/images")
        page.keyboard.press("/")
        page.keyboard.type(words)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**q={words}**")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody tr")).to_contain_text("Okafor, Chidi")


def test_a_dropped_file_is_tried_and_not_kept(page: Page, shown: Place) -> None:
    before = len(shown.node.jobs())
    page.goto(f"{shown.url}/console/try")
    page.locator("[data-drop] input").set_input_files(shown.files[0])
    page.get_by_text("Nothing of this was kept or sent.").wait_for(timeout=150_000)
    expect(page.locator("[data-result]")).to_contain_text("May be analysed.")
    expect(page.locator("[data-result]")).to_contain_text("pacs")
    assert len(shown.node.jobs()) == before


PAGES = (
    *("", "/images", "/deliveries", "/queue", "/try", "/node", "/node/models/main", "/node/settings"),
    *("/node/compare", "/node/drift", "/node/conformance", "/node/conformance?section=6.1.4", "/node/audit"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(page: Page, shown: Place, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    found = {}
    for path in (*PAGES, "one"):
        if path == "one":
            first_done(page, shown)
        else:
            page.goto(f"{shown.url}/console{path}")
        violations = Axe().run(page).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:160]) for v in violations if v["impact"] in ("serious", "critical")]
        if serious:
            found[path] = serious
    assert found == {}


@pytest.fixture
def vera(page: Page, shown: Place) -> Page:
    """The page of a viewer who has signed in. From the first such test on, nobody sees anything without signing in."""
    ledger = shown.node.ledger()
    try:
        if not ledger.users.exist():
            ledger.users.add("vera", Role.VIEWER, PASSWORD)
    finally:
        ledger.close()
    page.goto(f"{shown.url}/console/images")
    page.get_by_label("Name").fill("vera")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{shown.url}/console/images")
    return page


def test_a_viewer_sees_no_patient_and_may_not_act(vera: Page, shown: Place) -> None:
    assert "Okafor" not in vera.content()
    assert "A-2001" not in vera.content()
    assert vera.get_by_role("link", name="Try a file").count() == 0
    csv = vera.request.get(f"{shown.url}/console/images.csv").text()
    assert "DONE" in csv
    assert "P-1001" not in csv
    assert vera.request.get(f"{shown.url}/console/images?q=A-2001", headers={"accept": "text/html"}).status == 200
    answer = vera.goto(f"{shown.url}/console/try")
    assert answer is not None
    assert answer.status == 403
    expect(vera.locator("main")).to_contain_text("This needs the role operator; yours is viewer.")
    vera.goto(f"{shown.url}/console/deliveries")
    assert vera.get_by_role("button", name="Send again").count() == 0


def test_signing_out_ends_it(vera: Page, shown: Place) -> None:
    vera.get_by_role("button", name="Sign out").click()
    vera.goto(f"{shown.url}/console/queue")
    expect(vera.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_session_that_has_expired_ends_on_the_open_page(vera: Page, shown: Place) -> None:
    vera.goto(f"{shown.url}/console")
    vera.locator("#light-receiving").wait_for()
    ledger = shown.node.ledger()
    try:
        with ledger.database.write() as conn:
            conn.execute(update(sessions).values(expires_at=ledger.clock() - timedelta(seconds=1)))
    finally:
        ledger.close()
    expect(vera.get_by_role("heading", name="Sign in")).to_be_visible(timeout=30_000)
