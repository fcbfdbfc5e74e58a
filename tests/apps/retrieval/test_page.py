"""The page in a headless browser: search, highlight, filters, ingest, keys; nothing is asked from elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.service import service
from tests.apps.retrieval.fake_encoder import FakeEncoder
from tests.apps.retrieval.test_service import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IMAGE = "<img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture
def address(tmp_path):
    with Collection.create(tmp_path / "index", FakeEncoder()) as index:
        index.add(
            [
                Document(
                    "solar.txt",
                    "The solar wind reaches every planet around us. Particles stream away from the sun for ever.",
                    title="Solar wind",
                    metadata={"year": 1958, "lang": "en"},
                ),
                Document("sea.txt", "Tides follow the moon.", title=IMAGE, metadata={"year": 2001}),
                Document("grid.txt", "Wind turbines feed the grid when the wind blows.", metadata={"year": 2020}),
            ]
        )
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(service(index), port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join()


def test_a_person_searches_filters_and_adds_by_keys_alone(address):
    playwright = pytest.importorskip("playwright.sync_api")
    expect = playwright.expect
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 900})
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.wait_for_function("document.activeElement.id === 'query'")
        page.keyboard.type("solar wind")
        page.keyboard.press("Enter")
        page.wait_for_selector("#hits li")
        assert page.locator("#hits li h2").first.text_content() == "Solar wind"
        assert page.locator("#hits li").first.locator("mark").all_text_contents() == ["solar", "wind"]
        assert "3 documents in" in page.locator("#status").text_content()
        # A title that looks like HTML is text.
        assert page.locator("#hits img").count() == 0
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.tagName") == "LI"
        if folder := os.environ.get("FARFIELD_SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / "search.png"))
        page.fill("#filters", "year>=2000")
        page.keyboard.press("Enter")
        expect(page.locator("#hits li")).to_have_count(2)
        page.fill("#filters", "year")
        page.keyboard.press("Enter")
        page.wait_for_selector("#status.bad")
        assert 'filter "year"' in page.locator("#status").text_content()
        page.fill("#filters", "")
        page.locator("summary").press("Enter")
        page.fill("#id", "new.txt")
        page.fill("#text", "Aurora over the pole")
        page.fill("#metadata", '{"year": 2024}')
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_have_text("added")
        page.locator("summary").press("Enter")
        page.locator("#hits li").first.focus()
        page.keyboard.press("/")
        page.keyboard.type("aurora")
        page.keyboard.press("Enter")
        expect(page.locator("#hits li h2").first).to_have_text("new.txt")
        browser.close()
    assert wrong == []
    assert all(url.startswith((address, "data:")) for url in asked)
