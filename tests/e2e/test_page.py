"""The page in a real browser, against the real service with its tiny models of tones."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1280, 900), (390, 844)
PATIENCE_MS = 30_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, service: Service) -> Iterator[Page]:
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(f"{service.url}/ui/")
    expect(page.locator("#es-samples button").first).to_be_visible()
    yield page
    page.close()


def classify_sample(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    expect(page.locator("#es-sound").get_by_role("button", name="Clear")).to_be_visible()
    page.get_by_role("button", name="Classify").click()


def assert_fits(page: Page) -> None:
    """Nothing is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_sample_gets_labels_pictures_events_and_a_download(page: Page) -> None:
    assert_fits(page)
    classify_sample(page, "Phone dialling")
    expect(page.locator(".es-headline")).to_contain_text("Low tone")
    assert page.locator(".es-bars").first.locator("li").count() == 3
    for picture in page.locator(".es-card img").all():
        assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 500
    assert page.locator(".es-card img").count() == 2
    assert page.locator(".es-answer tbody tr").count() >= 1
    expect(page.locator("#es-foot")).to_contain_text("tones")
    assert_fits(page)
    with page.expect_download() as started:
        page.get_by_text("Download the full answer as JSON").click()
    answer = json.loads(Path(started.value.path()).read_text())
    assert answer["labels"][0]["label"] == "Low tone"
    assert re.fullmatch(r"earshot-[\w.-]+\.json", started.value.suggested_filename)


def test_a_short_sound_in_silence_is_shown(page: Page) -> None:
    classify_sample(page, "Glass break")
    expect(page.locator(".es-headline")).to_contain_text("High tone")
    expect(page.locator(".es-headline")).not_to_contain_text("Silence")
    expect(page.locator(".es-bars li").first).to_contain_text("Silence")
    expect(page.locator(".es-answer tbody")).to_contain_text("High tone")


def test_options_reach_the_service(page: Page) -> None:
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("never").check()
    page.get_by_label("peak").check()
    classify_sample(page, "Glass break")
    expect(page.locator(".es-bars li").first).to_contain_text("High tone")
    expect(page.locator(".es-answer")).to_contain_text("you chose “never”")
    assert_fits(page)


def test_the_second_opinion_is_asked_on_request(page: Page) -> None:
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("always").check()
    classify_sample(page, "Siren")
    expect(page.locator(".es-pair")).to_contain_text("tone-head")
    assert page.locator(".es-bars").count() == 2
    assert_fits(page)


def test_what_is_no_sound_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("alert")).to_contain_text("No sound yet")
    text = tmp_path / "text.wav"
    text.write_text("These are words, not a sound.\n" * 50)
    page.locator("#es-sound input[type=file]").set_input_files(text)
    expect(page.locator("#es-sound").get_by_role("button", name="Clear")).to_be_visible()
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("alert")).to_contain_text("Request")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("not a sound", re.IGNORECASE))
    assert_fits(page)
    classify_sample(page, "Siren")
    expect(page.locator(".es-headline")).to_contain_text("High tone")


def test_nothing_is_fetched_from_elsewhere(browser: Browser, service: Service) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/ui/")
    classify_sample(page, "Rain")
    expect(page.locator(".es-headline")).to_be_visible(timeout=PATIENCE_MS)
    page.close()
    assert [url for url in asked if not url.startswith((service.url, "data:", "blob:"))] == []
