"""Who may ask, and who is asked: pages of other origins, rebound names, redirected deliveries."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from service.delivery.stow import Instance, send
from service.settings import StowTarget
from tests.service.browsing import CHROMIUM, needs_browser
from tests.service.in_process import ask
from tests.service.live import HDF5, Server, api_alone

ELSEWHERE = "scans.example.test"
"""A name that its owner first gives the address of a page, and then that of this machine."""
_UNGUARDED = (
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,"
    "PrivateNetworkAccessSendPreflights,PrivateNetworkAccessRespectPreflightResults"
)
"""Newer browsers keep pages from this machine by themselves; the service must not need that."""
ATTEMPTS = """async (base) => {
    const said = {};
    const attempt = async (name, path, init) => {
        try {
            const answer = await fetch(base + path, init);
            said[name] = answer.type === "opaque" ? "opaque" : answer.status;
        } catch (error) { said[name] = "blocked"; }
    };
    await attempt("read", "/v1/reconstructions", {});
    await attempt("read blindly", "/v1/reconstructions", { mode: "no-cors" });
    await attempt("submit", "/v1/scans", { method: "POST", body: "x", mode: "no-cors" });
    await attempt("upload", "/v1/scans", { method: "POST", body: new Uint8Array(%s) });
    await attempt("delete", "/v1/scans/a", { method: "DELETE" });
    return said;
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>a page")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_alone(tmp_path_factory.mktemp("asked"), disk_floor_bytes=0) as running:
        yield running


@contextmanager
def page_of(url: str) -> Iterator[Any]:
    """A page in a browser that takes the strange name for this machine's."""
    rules = f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", _UNGUARDED, rules]
        )
        page = running.new_page()
        # The document is the attacker's; all that its script asks for is really sent.
        page.route(url, lambda route: route.fulfill(body="<p>a page", content_type="text/html"))
        page.goto(url)
        page.unroute(url)
        yield page
        running.close()


@pytest.mark.slow
@needs_browser
def test_a_rebound_name_in_a_browser_neither_reads_nor_submits(server: Server, scan: Path) -> None:
    port = server.url.rpartition(":")[2]
    here = f"http://{ELSEWHERE}:{port}"
    with page_of(here + "/page") as page:
        said = page.evaluate(ATTEMPTS % list(scan.read_bytes()), here)
    assert said == dict.fromkeys(("read", "read blindly", "submit", "upload", "delete"), 403)
    with server.client() as client:
        assert client.get("/v1/scans").json()["items"] == []


@pytest.mark.slow
@needs_browser
def test_a_page_of_another_origin_neither_reads_nor_submits(server: Server, scan: Path) -> None:
    with listening(_Page) as other:
        here = f"http://127.0.0.1:{other.server_port}"
        with page_of(here + "/page") as page:
            said = page.evaluate(ATTEMPTS % list(scan.read_bytes()), server.url)
            page.set_content(
                f'<form method="post" enctype="text/plain" action="{server.url}/v1/scans">'
                '<input name="a" value="b"></form>'
            )
            with page.expect_navigation():
                page.evaluate("document.forms[0].submit()")
            shown = page.inner_text("body")
    assert said == {
        "read": "blocked",
        "read blindly": "blocked",  # its answer may not be embedded: Cross-Origin-Resource-Policy
        "submit": "blocked",
        "upload": "blocked",
        "delete": "blocked",
    }
    assert json.loads(shown)["type"] == "/problems/forbidden"
    with server.client() as client:
        assert client.get("/v1/scans").json()["items"] == []


class _Redirecting(BaseHTTPRequestHandler):
    status = 307
    elsewhere = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.send_header("location", self.elsewhere)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_delivery_goes_to_the_configured_address_alone(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Elsewhere(_Page):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.do_GET()

    with listening(Elsewhere) as other, listening(_Redirecting) as target:
        monkeypatch.setattr(_Redirecting, "status", status)
        monkeypatch.setattr(_Redirecting, "elsewhere", f"http://127.0.0.1:{other.server_port}/")
        outcome = send(
            StowTarget(url=f"http://127.0.0.1:{target.server_port}", seconds=5),
            [Instance("1.2.3", b"DICM")],
        )
    assert outcome.stored == []
    assert str(status) in str(outcome.problem)
    assert asked == []


@pytest.mark.parametrize(
    "body",
    [
        {"target": "http://127.0.0.1:1/", "products": ["dicom"]},
        {"target": "none"},
        {"target": "none", "url": "http://127.0.0.1:1/"},
        {"url": "http://127.0.0.1:1/"},
    ],
)
def test_a_client_names_no_address(make: Any, scan: Path, body: dict[str, Any]) -> None:
    context = make(disk_floor_bytes=0)
    answer = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5)
    scan_id = answer.json()["id"]
    for source in ("file:///etc/passwd", "s3://bucket/key", "http://127.0.0.1:1/a.h5"):
        text = {"scan_id": scan_id, "source": source}
        assert ask(context, "POST", "/v1/reconstructions", json=text).status_code == 422
        items = {"items": [{"scan_id": source}]}
        assert ask(context, "POST", "/v1/batches", json=items).status_code in (422, 503)
    answer = ask(context, "POST", "/v1/reconstructions/any/deliveries", json=body)
    assert answer.status_code in (404, 422), answer.text
