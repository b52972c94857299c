"""The pages in a browser that reaches nothing but the service."""

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

from padim.serving.tokens import TOKENS, add_token

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
    boxes = chrome.find_elements(By.CSS_SELECTOR, "#boxes rect")
    assert len(boxes) == len(chrome.find_elements(By.CSS_SELECTOR, "#regions li"))
    levels = chrome.find_elements(By.CSS_SELECTOR, "#levels li")
    assert [one.text.split("\n")[0] for one in levels] == ["8 × 8 cells", "16 × 16 cells"]
    assert chrome.get_log("browser") == []


def test_what_others_send_shows_up(
    chrome: webdriver.Chrome, client: httpx.Client, file: Path
) -> None:
    wait(chrome, lambda page: page.find_element(By.ID, "main").is_displayed())
    n_before = count_strip(chrome)
    url = "/v1/recipes/part/inspections"
    client.post(url, content=file.read_bytes(), params={"serial": "A7"}).raise_for_status()
    assert client.post(url, content=b"no picture").status_code == 422
    wait(chrome, lambda page: count_strip(page) == n_before + 2)
    first = chrome.find_element(By.CSS_SELECTOR, "#strip button")
    assert "NOT INSPECTED" in first.text
    first.click()
    wait(chrome, lambda page: word(page) == "NOT INSPECTED")
    assert "Treat the part as NOK." in chrome.find_element(By.ID, "words").text


def test_the_page_of_the_api_needs_no_network(chrome: webdriver.Chrome, running: Running) -> None:
    chrome.get(f"{running.url}/docs")
    wait(chrome, lambda page: page.find_elements(By.CLASS_NAME, "opblock-summary-path"))
    paths = [one.text for one in chrome.find_elements(By.CLASS_NAME, "opblock-summary-path")]
    assert "/v1/recipes/{recipe}/inspections" in [one.replace("\u200b", "") for one in paths]


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


def test_a_stream_of_events_ends_with_the_service(tmp_path: Path) -> None:
    with run_over_http(make_station(tmp_path)) as running:
        client = httpx.Client(base_url=running.url, timeout=60)
        stream = client.send(client.build_request("GET", "/v1/events"), stream=True)
        assert stream.headers["content-type"].startswith("text/event-stream")
    assert not stream.read()
    client.close()
