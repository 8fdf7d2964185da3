"""The page in a real browser, against the real service with its tiny models of tones."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from models.bundle import save_bundle
from models.weights import starter_notice
from tests.conftest import Service, run_up, wait_until
from tests.tiny_models import LABELS, build_tone_graph
from ui.samples.generate import FOLDER

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


@pytest.fixture(scope="module")
def page_url(service: Service) -> str:
    """Where the page is; the proxy may learn its route a moment after the service's own."""
    url = f"{service.url}/ui/"
    wait_until(lambda: is_served(url), timeout_s=60)
    return url


def is_served(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, page_url: str) -> Iterator[Page]:
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(page_url)
    expect(page.locator("#es-samples button").first).to_be_visible()
    yield page
    page.close()


def classify_sample(page: Page, name: str) -> None:
    file = name.lower().replace(" ", "-") + ".ogg"
    with page.expect_response(lambda answer: file in answer.url):  # the player now has it
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


@pytest.mark.parametrize("named", ["file", "address"])
def test_a_visitor_cannot_name_a_file_of_the_server(page_url: str, tmp_path: Path, named: str) -> None:
    secret = tmp_path / "secret.ogg"
    secret.write_bytes((FOLDER / "siren.ogg").read_bytes())
    path = str(secret) if named == "file" else "https://example.org/secret.ogg"
    sound = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=f"{page_url}gradio_api/queue", timeout=PATIENCE_MS / 1000) as visitor:
        functions = visitor.get(f"{page_url}config").json()["dependencies"]
        (classify,) = (function["id"] for function in functions if len(function["inputs"]) == 5)
        call = {"data": [sound, 5, "mean", 0.3, "never"], "fn_index": classify, "session_hash": named}
        assert visitor.post("/join", json=call).is_success
        heard = visitor.get("/data", params={"session_hash": named}).text
    assert '"success":false' in heard
    assert "not a sound which was uploaded here" in heard


def test_nothing_is_fetched_from_elsewhere(browser: Browser, service: Service, page_url: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_url)
    classify_sample(page, "Rain")
    expect(page.locator(".es-headline")).to_be_visible(timeout=PATIENCE_MS)
    page.close()
    assert [url for url in asked if not url.startswith((service.url, "data:", "blob:"))] == []


def test_starter_weights_are_told_of_where_they_are_served(browser: Browser, tmp_path: Path, page_url: str) -> None:
    graph = build_tone_graph().SerializeToString()
    save_bundle(tmp_path / "m", {"int8": graph}, LABELS, name="starter-tones", version="1", starter=True)
    with run_up(tmp_path, "--model", str(tmp_path / "m"), "--replicas", "1") as starter:
        starter_url = f"{starter.url}/ui/"
        wait_until(lambda: is_served(starter_url), timeout_s=60)
        for width, height in (DESKTOP, PHONE):
            page = browser.new_page(viewport={"width": width, "height": height})
            for url, name, notices in ((page_url, "tones", []), (starter_url, "starter-tones", [starter_notice(3)])):
                page.goto(url)
                expect(page.locator("#es-foot")).to_contain_text(name, timeout=PATIENCE_MS)
                assert page.get_by_role("note").all_inner_texts() == notices
                assert_fits(page)
            page.close()
        assert starter_notice(3) in starter.log.read_text()
        tagger = httpx.get(f"{starter.url}/v1/models").json()["models"][0]
        assert (tagger["name"], tagger["starter"]) == ("starter-tones", True)
