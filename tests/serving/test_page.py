"""The pages in a browser that reaches nothing but the service."""

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from chrome import list_asked, open_chrome
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from serving_station import Running, make_station, run_over_http

from padim.serving.tokens import TOKENS, add_token, remove_token

ALONE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


@pytest.fixture
def chrome(running: Running) -> Iterator[webdriver.Chrome]:
    with open_chrome(ALONE, "--window-size=1280,900") as opened:
        opened.get(running.url)
        yield opened
        asked = [url for url in list_asked(opened) if not url.startswith(("data:", "blob:"))]
        assert asked
        assert [url for url in asked if not url.startswith(running.url)] == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "part.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def wait(chrome: webdriver.Chrome, until: Callable[[webdriver.Chrome], object]) -> None:
    # A page that is just loaded again has other elements.
    WebDriverWait(chrome, 20, ignored_exceptions=[StaleElementReferenceException]).until(until)


def word(chrome: webdriver.Chrome) -> str:
    return chrome.find_element(By.CSS_SELECTOR, "#verdict .word").text


def count_strip(chrome: webdriver.Chrome) -> int:
    return len(chrome.find_elements(By.CSS_SELECTOR, "#strip li"))


def test_a_picture_that_is_chosen_is_judged(chrome: webdriver.Chrome, file: Path) -> None:
    wait(chrome, lambda page: page.find_element(By.ID, "recipe").get_attribute("value") == "part")
    chrome.find_element(By.ID, "file").send_keys(str(file))
    wait(chrome, lambda page: word(page) in ("OK", "NOK"))
    assert "of 8 good images" in chrome.find_element(By.ID, "words").text
    overlay = chrome.find_element(By.ID, "overlay")
    wait(chrome, lambda _: overlay.get_property("naturalWidth") == 90)
    slide = "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
    slide += "it.dispatchEvent(new Event('input'))"
    for percent in (0, 100, 25):
        chrome.execute_script(slide, "opacity", percent)
        assert float(overlay.value_of_css_property("opacity")) == percent / 100
    # Boxes are in pixels of the picture, and lie over it.
    svg = chrome.find_element(By.ID, "boxes")
    wait(chrome, lambda _: svg.get_dom_attribute("viewBox") == "0 0 90 60")
    for other in (overlay, chrome.find_element(By.ID, "picture")):
        assert svg.rect == pytest.approx(other.rect, abs=1)
    assert svg.rect["width"] == pytest.approx(1.5 * svg.rect["height"], rel=0.01)
    boxes = chrome.find_elements(By.CSS_SELECTOR, "#boxes rect")
    assert len(boxes) == len(chrome.find_elements(By.CSS_SELECTOR, "#regions li"))
    levels = chrome.find_elements(By.CSS_SELECTOR, "#levels li")
    assert [one.text.split("\n")[0] for one in levels] == ["8 × 8 cells", "16 × 16 cells"]
    assert chrome.get_log("browser") == []


OFFER = """
const bytes = Uint8Array.from(atob(arguments[1]), (one) => one.charCodeAt(0));
const carried = new DataTransfer();
carried.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
const event = arguments[0] === "drop"
  ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true });
document.body.dispatchEvent(event);
return event.defaultPrevented;
"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_may_be_dropped_anywhere_or_pasted(
    way: str, chrome: webdriver.Chrome, file: Path
) -> None:
    wait(chrome, lambda page: page.find_element(By.ID, "main").is_displayed())
    content = base64.b64encode(file.read_bytes()).decode()
    is_kept = chrome.execute_script(OFFER, way, content)
    assert is_kept or way == "paste"  # else the browser would leave the page for the picture
    wait(chrome, lambda page: word(page) in ("OK", "NOK"))
    assert "dropped.png" in chrome.find_element(By.ID, "what").text


def test_the_page_fits_a_phone(chrome: webdriver.Chrome, client: httpx.Client, file: Path) -> None:
    client.post("/v1/recipes/part/inspections", content=file.read_bytes()).raise_for_status()
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wait(chrome, count_strip)
    chrome.find_element(By.ID, "file").send_keys(str(file))
    wait(chrome, lambda page: word(page) in ("OK", "NOK"))
    assert chrome.execute_script("return document.documentElement.scrollWidth") == 390


def test_what_others_send_shows_up(
    chrome: webdriver.Chrome, client: httpx.Client, file: Path
) -> None:
    wait(chrome, lambda page: page.find_element(By.ID, "main").is_displayed())
    n_before = count_strip(chrome)
    url = "/v1/recipes/part/inspections"
    client.post(url, content=file.read_bytes(), params={"serial": "A7"}).raise_for_status()
    assert client.post(url, content=b"no picture").status_code == 422
    wait(chrome, lambda page: count_strip(page) == min(n_before + 2, 50))
    first = chrome.find_element(By.CSS_SELECTOR, "#strip button")
    assert "NOT INSPECTED" in first.text
    first.click()
    wait(chrome, lambda page: word(page) == "NOT INSPECTED")
    assert "Treat the part as NOK." in chrome.find_element(By.ID, "words").text


def test_the_page_of_the_api_needs_no_network(running: Running) -> None:
    elsewhere = f"http://station.test:{running.address[1]}"
    with open_chrome("--host-resolver-rules=MAP station.test 127.0.0.1, MAP * ~NOTFOUND") as chrome:
        chrome.get(f"{elsewhere}/docs")
        wait(chrome, lambda page: page.find_elements(By.CLASS_NAME, "opblock-summary-path"))
        paths = [one.text for one in chrome.find_elements(By.CLASS_NAME, "opblock-summary-path")]
        assert "/v1/recipes/{recipe}/inspections" in [one.replace("\u200b", "") for one in paths]
        asked = [url for url in list_asked(chrome) if not url.startswith("data:")]
        assert asked
        assert [url for url in asked if not url.startswith(elsewhere)] == []
        assert chrome.get_log("browser") == []


def test_a_page_runs_nothing_that_is_not_its_own(client: httpx.Client) -> None:
    for path, is_loose in (("/", False), ("/docs", True), ("/files/page.js", False)):
        policy = client.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' data: blob:")
        assert "script-src" not in policy
        assert ("unsafe-inline" in policy) == is_loose
    for name in ("page.py", "..%2Fpage.py", "%2Fetc%2Fpasswd"):
        assert client.get(f"/files/{name}").status_code == 404


def test_who_has_a_token_signs_in(tmp_path: Path) -> None:
    station = make_station(tmp_path)
    token = add_token(tmp_path / TOKENS, "bench", "engineer")
    with run_over_http(station) as running, open_chrome(ALONE) as chrome:
        chrome.get(running.url)
        field = chrome.find_element(By.ID, "token")
        wait(chrome, lambda _: field.is_displayed())
        field.send_keys("wrong\n")
        trouble = chrome.find_element(By.ID, "sign-in-trouble")
        wait(chrome, lambda _: "no token that is known" in trouble.text)
        field.clear()
        field.send_keys(f"{token}\n")
        wait(chrome, lambda page: page.find_element(By.ID, "main").is_displayed())
        cookie = chrome.get_cookie("padim_token")
        assert cookie is not None
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        chrome.find_element(By.ID, "sign-out").click()
        wait(chrome, lambda page: page.find_element(By.ID, "token").is_displayed())
        assert chrome.get_cookie("padim_token") is None


def read_ids(url: str, n_ids: int, last: str = "") -> list[str]:
    """The ids of the next inspections that a stream tells of."""
    headers = {"Last-Event-ID": last} if last else {}
    with httpx.stream("GET", f"{url}/v1/events", headers=headers, timeout=20) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("id: "))
        return [next(lines).removeprefix("id: ") for _ in range(n_ids)]


def test_who_comes_again_hears_what_was_missed(tmp_path: Path, file: Path) -> None:
    station = make_station(tmp_path)
    ids: list[str] = []
    with run_over_http(station) as running:
        for _ in range(3):
            url = f"{running.url}/v1/recipes/part/inspections"
            ids.append(httpx.post(url, content=file.read_bytes(), timeout=20).json()["id"])
        assert read_ids(running.url, 3) == ids
        assert read_ids(running.url, 2, ids[0]) == ids[1:]
        assert read_ids(running.url, 3, "unknown") == ids
    with run_over_http(station) as running:
        assert read_ids(running.url, 3) == ids


def count_to(running: Running, n_listeners: int) -> None:
    until_s = time.monotonic() + 20
    while running.service.events.n_listeners != n_listeners:
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_pages_that_are_closed_are_forgotten(tmp_path: Path) -> None:
    with run_over_http(make_station(tmp_path)) as running:
        clients = [httpx.Client(base_url=running.url) for _ in range(30)]
        for client in clients:
            client.send(client.build_request("GET", "/v1/events"), stream=True)
        count_to(running, 30)
        for client in clients:
            client.close()
        count_to(running, 0)


def test_a_stream_ends_when_its_token_is_removed(tmp_path: Path, file: Path) -> None:
    station = make_station(tmp_path)
    kept, removed = (add_token(tmp_path / TOKENS, name, "engineer") for name in ("a", "b"))
    with run_over_http(station) as running, httpx.Client(base_url=running.url) as client:
        headers = {"Authorization": f"Bearer {removed}"}
        request = client.build_request("GET", "/v1/events", headers=headers)
        stream = client.send(request, stream=True)
        remove_token(tmp_path / TOKENS, "b")
        headers = {"Authorization": f"Bearer {kept}"}
        url = "/v1/recipes/part/inspections"
        client.post(url, content=file.read_bytes(), headers=headers, timeout=20).raise_for_status()
        assert not stream.read()


def test_a_stream_of_events_ends_with_the_service(tmp_path: Path) -> None:
    with run_over_http(make_station(tmp_path)) as running:
        client = httpx.Client(base_url=running.url, timeout=60)
        stream = client.send(client.build_request("GET", "/v1/events"), stream=True)
        assert stream.headers["content-type"].startswith("text/event-stream")
    assert not stream.read()
    client.close()
