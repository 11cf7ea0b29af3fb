"""Pictures of every page of the console, desktop and phone, light and dark: ``make screenshots``; or of those named.

They show drawn chests and made-up names. WebP, without loss but for the page with a radiograph, so that the repository
stays small.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from console.place import NAMES, place

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "console"
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
PAGES = {
    "overview": "",
    "images": "/images",
    "image": "/images?abnormal=yes",
    "deliveries": "/deliveries",
    "queue": "/queue",
    "try": "/try",
    "node": "/node",
    "model": "/node/models/main",
    "settings": "/node/settings",
    "compare": "/node/compare",
    "drift": "/node/drift",
    "conformance": "/node/conformance?section=3.2.1",
    "audit": "/node/audit",
    "erase": "/images?abnormal=yes",
}
#: A path of whoever makes the pictures is not for the documentation.
_PLACE = """folder => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) walk.currentNode.nodeValue = walk.currentNode.nodeValue.replaceAll(folder, "/srv/chexnode");
}"""


def shoot(page: Page, url: str, name: str, folder: str) -> bytes:
    """One page, drawn to its end."""
    page.goto(f"{url}/console{PAGES[name]}")
    if name == "image":
        page.locator("tbody a[data-row]").first.click()
        page.locator("[data-stage]").wait_for()
        page.evaluate("Promise.all([...document.images].filter(one => one.checkVisibility()).map(one => one.decode()))")
        page.locator(".regions li").first.hover()
        page.evaluate("scrollTo(0, 0)")
    if name == "erase":
        page.locator("tbody a[data-row]").first.click()
        page.locator("a[href$='/erase']").click()
    page.wait_for_timeout(500)
    page.evaluate(_PLACE, folder)
    return page.screenshot()


def main() -> None:
    """Make them all."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        place(Path(folder), 10, NAMES, trial=0.985) as shown,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,  # type: ignore[arg-type]
                    locale="en-GB",
                )
                context.set_default_timeout(120_000)
                page = context.new_page()
                for name in sys.argv[1:] or PAGES:
                    picture = Image.open(BytesIO(shoot(page, shown.url, name, folder))).convert("RGB")
                    file = FOLDER / f"{name}-{size}-{scheme}.webp"
                    picture.save(file, lossless=name != "image", quality=84 if name == "image" else 100, method=6)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
