"""A package as npm has OHIF's, but small: the files that matter, written as webpack writes them."""

from __future__ import annotations

import tarfile
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha512
from io import BytesIO
from pathlib import Path

import pytest

from chexnode.web.viewer import install

PUBLIC_PATH = '(() => {\n__webpack_require__.p = "/";\n})();\n'
BUNDLE = "app.bundle.0f6159c501addfe9.js"
WORKER = "8097.bundle.8ae6404ba94890a0.js"
PAGE = f"""<!doctype html><html><head><meta name="msapplication-config" content="/assets/browserconfig.xml">\
<script>console.time("scriptToView"),window.PUBLIC_URL="/"</script><link rel="manifest" href="/manifest.json">\
<script rel="preload" as="script" src="/app-config.js"></script>\
<script rel="preload" as="script" type="module" src="/init-service-worker.js"></script>\
<script>function browserImportFunction(n){{return import(n)}}window.PUBLIC_URL="/"</script>\
<script defer src="/{BUNDLE}"></script><link href="/app.bundle.css" rel="stylesheet"></head>\
<body><div id="root"></div></body></html>"""

FILES: Mapping[str, str] = {
    "package/package.json": "{}",
    "package/dist/index.html": PAGE,
    "package/dist/manifest.json": '{"icons": [{"src": "/assets/icon.png"}]}',
    "package/dist/app-config.js": "window.config = {}",
    "package/dist/init-service-worker.js": "importScripts('https://elsewhere.example')",
    "package/dist/app.bundle.css": "@font-face { src: url(/a34f9d1faa5f3315.woff2) }",
    f"package/dist/{BUNDLE}": PUBLIC_PATH + "// " + "x" * 5000,
    f"package/dist/{WORKER}": PUBLIC_PATH,
    "package/dist/0ddf166f7a343eda.wasm": "\0asm",
    "package/dist/assets/icon.png": "a picture",
    "package/dist/ort/big.wasm": "large",
}


def archive(path: Path, files: Mapping[str, str] = FILES) -> Path:
    """Write a package of ``files``."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    return path


def trusted(monkeypatch: pytest.MonkeyPatch, package: Path) -> Path:
    """Have ``package`` be the one that was tried."""
    digest = b64encode(sha512(package.read_bytes()).digest()).decode()
    monkeypatch.setattr(install, "INTEGRITY", f"sha512-{digest}")
    return package
