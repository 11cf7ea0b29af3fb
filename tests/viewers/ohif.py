"""OHIF served on a loopback port, with a DICOMweb server behind it on the same origin, as hospitals deploy it."""

from __future__ import annotations

import json
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from support.servers import LOOPBACK

DICOM_WEB = "/dicom-web"
CONFIGURATION: dict[str, Any] = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "groupEnabledModesFirst": True,
    "disableConfirmationPrompts": True,  # a SEG or SR is loaded without asking first
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "PACS",
                "name": "pacs",
                "wadoUriRoot": DICOM_WEB,
                "qidoRoot": DICOM_WEB,
                "wadoRoot": DICOM_WEB,
                "qidoSupportsIncludeField": False,
                "supportsReject": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "staticWado": False,
                "singlepart": "bulkdata,video",
                "bulkDataURI": {"enabled": True},
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}
"""OHIF's ``app-config.js`` for a DICOMweb server; where it departs from OHIF's own default, the server is Orthanc."""

_OURS = {"/app-config.js": f'window.PUBLIC_URL = "/"; window.config = {json.dumps(CONFIGURATION)};'.encode()}
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length"})


class Ohif:
    """``with Ohif(dist, dicom_web_port) as ohif: ohif.url``."""

    def __init__(self, dist: Path, dicom_web_port: int) -> None:
        # No connection is kept: Orthanc closes an idle one just as the next request may be going out on it.
        once = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=f"http://{LOOPBACK}:{dicom_web_port}", timeout=60, limits=once)
        client = self._client

        class Handler(_Handler):
            dicom_web = client

            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(dist))

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, name="ohif", daemon=True)
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._client.close()


class _Handler(SimpleHTTPRequestHandler):
    """The viewer's files; any other path is a page of its, so ``index.html``; ``/dicom-web`` is passed on."""

    protocol_version = "HTTP/1.1"
    dicom_web: httpx.Client

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith(DICOM_WEB):
            self._pass_on()
        elif path in _OURS:
            self._answer(200, {"Content-Type": "text/javascript"}, _OURS[path])
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"
            super().do_GET()

    def _pass_on(self) -> None:
        headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
        try:
            answer = self.dicom_web.get(self.path, headers=headers)
        except httpx.TransportError as error:
            self._answer(502, {"Content-Type": "text/plain"}, str(error).encode())
            return
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP}
        self._answer(answer.status_code, kept, answer.content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        # Cross-origin isolation: OHIF decodes in workers that share memory.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the browser's own view of the requests is what a test reports."""
