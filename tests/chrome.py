"""A browser that has no network but this machine, for tests of pages."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver


@contextmanager
def open_chrome(*arguments: str) -> Iterator[webdriver.Chrome]:
    """Open a browser in a ``with`` block; the test is skipped where there is none, but in CI."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if (chromium is None or driver is None) and not os.environ.get("CI"):
        pytest.skip("there is no chromium; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        *arguments,
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver)
    chrome = webdriver.Chrome(options=options, service=service)
    try:
        yield chrome
    finally:
        chrome.quit()


def list_asked(chrome: webdriver.Chrome) -> list[str]:
    """The addresses that a browser has asked for since the last time."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
