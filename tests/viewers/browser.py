"""Chromium without a screen, and one study open in OHIF in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image
from playwright.sync_api import ElementHandle, Page, Response, sync_playwright

from viewers.screen import Picture

SIZE = {"width": 1400, "height": 900}
_ARGUMENTS = (
    "--no-sandbox",  # tests run as root in containers, and the only pages are our own
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
#: OHIF's guided tour lies over the page, and so does, until it is confirmed, that it is for investigational use.
_NO_TOUR = """
sessionStorage.setItem('investigationalUseDialog', 'hidden');
document.addEventListener('DOMContentLoaded', () => {
  const style = document.createElement('style');
  style.textContent = '.shepherd-modal-overlay-container, .shepherd-element { display: none !important }';
  document.head.appendChild(style);
});
"""
#: OHIF publishes its rendering library on the page.
_RENDERED = """
() => {
  const viewports = window.cornerstone?.getRenderingEngines().flatMap(engine => engine.getViewports()) ?? [];
  return viewports.length > 0 && viewports.every(viewport => viewport.viewportStatus === 'rendered');
}
"""
#: What OHIF writes when a part of its page fails, as a mere debug message.
_FAILED = "Error Boundary"
#: Words, and the lines that lead to them, may lie anywhere on the image.
_NO_WORDS = """
[data-cy^="viewport-overlay"], svg.svg-layer text, svg.svg-layer line { visibility: hidden !important }
"""
_SECONDS = 150.0


class Chromium:
    """``with Chromium(executable) as chromium: page = chromium.open(...)``; one browser, started once."""

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def __enter__(self) -> Self:
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(executable_path=self._executable, args=_ARGUMENTS)
        except BaseException:
            self._playwright.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._browser.close()
        self._playwright.stop()

    def page(self, *, of_ohif: bool = True) -> Page:
        """An empty page of a browser that knows nothing yet."""
        context = self._browser.new_context(viewport=SIZE, service_workers="block")
        context.set_default_timeout(_SECONDS * 1000)
        if of_ohif:
            context.add_init_script(_NO_TOUR)
        return context.new_page()

    def open(self, viewer: str, study_instance_uid: str) -> StudyPage:
        """Open a study in OHIF at ``viewer`` and return once its first image is drawn."""
        page = StudyPage(self.page())
        page.go(f"{viewer}/viewer?StudyInstanceUIDs={study_instance_uid}")
        page.wait_until_drawn()
        return page


class StudyPage:
    """A study in OHIF: its list of series, and one viewport."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        """Whatever the browser has complained of so far."""
        self.answers: list[tuple[int, str]] = []
        """Status and URL of every answer so far."""
        page.on("pageerror", lambda error: self._complain(True, f"uncaught: {error}"))
        page.on("console", lambda line: self._complain(line.type == "error" or _FAILED in line.text, line.text))
        page.on("request", lambda request: self._complain(self._is_foreign(request.url), f"asked: {request.url}"))
        page.on("response", self._note)

    def go(self, url: str) -> None:
        """Open ``url``; from now on only its host may be asked for anything."""
        self._origin = "/".join(url.split("/")[:3]) + "/"
        self.page.goto(url, wait_until="domcontentloaded")

    def wait_until_drawn(self) -> None:
        """Return once the first image is drawn."""
        self.page.wait_for_selector('[data-cy^="study-browser-thumbnail"]')
        self.page.wait_for_function(_RENDERED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.page.context.close()

    def _is_foreign(self, url: str) -> bool:
        return not url.startswith((self._origin, f"blob:{self._origin}", "data:"))

    def _note(self, answer: Response) -> None:
        self.answers.append((answer.status, answer.url))
        self._complain(answer.status >= 400, f"{answer.status} {answer.url}")

    def _complain(self, wrong: bool, text: str) -> None:
        if wrong:
            self.errors.append(text[:300])

    def series(self, modality: str, description: str = "") -> ElementHandle:
        """The entry of a series in the list, by its modality and a part of its description."""
        found = [
            entry
            for entry in self.page.query_selector_all('[data-cy^="study-browser-thumbnail"]')
            if modality in (text := entry.inner_text()) and description in text
        ]
        assert len(found) == 1, f"{len(found)} series {modality} {description} are listed"
        return found[0]

    def show(self, modality: str, description: str = "") -> None:
        """Load a series into the viewport, as a double click does."""
        self.series(modality, description).dblclick()

    def show_until(self, modality: str, words: str) -> Picture:
        """Load a series until ``words`` are read in the viewport, and return that: a busy OHIF loses a double click."""
        for _ in range(4):
            self.show(modality)
            shown = self.wait(lambda _: words in self.words(), 45)
            if words in self.words():
                break
        return shown

    def viewport(self) -> Picture:
        """A picture of the viewport without OHIF's own words."""
        png = self.page.locator('[data-cy="viewport-pane"]').screenshot(style=_NO_WORDS)
        return np.asarray(Image.open(BytesIO(png)).convert("RGB"))

    def words(self) -> str:
        """What can be read in the viewport."""
        return str(self.page.locator('[data-cy="viewport-pane"]').text_content())

    def screen(self) -> bytes:
        """The whole page as PNG."""
        return self.page.screenshot()

    def wait(self, drawn: Callable[[Picture], bool], seconds: float = 180.0) -> Picture:
        """Return the viewport once ``drawn`` holds of it and it no longer changes; or as it is after ``seconds``."""
        deadline = time.monotonic() + seconds
        before = self.viewport()
        while True:
            self.page.wait_for_timeout(300)
            now = self.viewport()
            if time.monotonic() > deadline or (drawn(now) and np.array_equal(before, now)):
                return now
            before = now
