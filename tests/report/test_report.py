"""The report of a benchmark: what is in the file, and what a browser makes of it."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chrome import list_asked, open_chrome
from PIL import Image
from selenium import webdriver
from trees import make_category, striped

from padim.cli import main
from padim.report.charts import curve, histogram, outline_path

# As a path they end a script, and an attribute.
NASTY = ("</script><b>x.png", '"><img src=x onerror=console.error(1)>.png')
N_IMAGES = 14


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    carpet = make_category(root / "carpet")
    make_category(root / "bottle", n_train=4, masks=False)
    striped(300).save(carpet / "test/good" / NASTY[1])
    (carpet / "test/<").mkdir()
    striped(301, spot=True).save(carpet / "test" / NASTY[0])
    # One whose defect cannot be seen is missed for certain.
    striped(302).save(carpet / "test/spot/unseen.png")
    (carpet / "test/good/2.png").unlink()
    return root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    words = ["benchmark", str(root), "-o", str(out), "--size", "64", "--engine", "torch", "-q"]
    assert main(words) == 0
    return out


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    assert main(["report", str(run), "-q"]) == 0
    return run / "report.html"


@pytest.fixture(scope="module")
def seeds_page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one category, two seeds, and a recipe that does not look at the whole image."""
    out = tmp_path_factory.mktemp("seeds")
    words = ["benchmark", str(root), "-o", str(out), "--category", "carpet", "--size", "64"]
    words += ["--recipe", "reference", "--dims", "20", "--seeds", "2", "--engine", "torch", "-q"]
    assert main(words) == 0
    assert main(["report", str(out), "-q"]) == 0
    return out / "report.html"


@pytest.fixture
def browser(page: Path) -> Iterator[webdriver.Chrome]:
    with opened(page) as chrome:
        yield chrome


@contextmanager
def opened(page: Path) -> Iterator[webdriver.Chrome]:
    """A page in a browser; afterwards, that it logged nothing and asked for nothing."""
    with open_chrome("--window-size=1200,900") as chrome:
        chrome.get(page.as_uri())
        yield chrome
        assert chrome.get_log("browser") == []
        asked = [url for url in list_asked(chrome) if not url.startswith(("data:", "blob:"))]
        assert asked == [page.as_uri()]


def details(page: Path) -> list[dict[str, Any]]:
    found = re.search(r'id="details">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    data: list[dict[str, Any]] = json.loads(found[1])
    return data


def shown(browser: webdriver.Chrome) -> list[int]:
    found: list[int] = browser.execute_script(
        "return [...document.querySelectorAll('.card:not([hidden])')].map(c => +c.dataset.index)"
    )
    return found


def choose(browser: webdriver.Chrome, name: str, value: str) -> None:
    browser.find_element("css selector", f"#{name} option[value='{value}']").click()


def press(browser: webdriver.Chrome, key: str) -> None:
    webdriver.ActionChains(browser).send_keys(key).perform()


def test_the_file_holds_everything_and_asks_for_nothing(run: Path, page: Path) -> None:
    text = page.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert len(text) < 2**20
    assert text.count('class="map" alt="" loading') == len(details(page)) == N_IMAGES
    document = json.loads((run / "results.json").read_text())
    mean, (low, high) = (document[key]["all"]["image_auroc"] for key in ("means", "mean_intervals"))
    heads, *rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    column = re.findall(r"<bdi>(.*?)</bdi>", heads).index("Image AUROC")
    of_images, of_pixels = [row for row in rows if "<bdi>All categories</bdi>" in row]
    assert f"<td>{document['means']['all']['pixel_auroc']:.3f} " in of_pixels
    cells = re.findall(r"<td>(.*?)</td>", of_images)
    assert cells[column] == f"{mean:.3f} <small>{low:.3f} – {high:.3f}</small>"
    assert "An oracle’s threshold is chosen with the test labels" in text
    assert document["settings"]["weights_sha256"] in text


def test_a_threshold_of_few_images_says_so(page: Path) -> None:
    text = page.read_text()
    for n in (4, 6):
        assert f"Threshold: {n} good images can promise one false alarm in {n + 1} at best" in text


def test_names_are_untrusted(page: Path) -> None:
    text = page.read_text()
    assert "<b>x" not in text
    assert "<img src=x" not in text
    assert {f"test/{NASTY[0]}", f"test/good/{NASTY[1]}"} <= {
        image["name"] for image in details(page)
    }


def test_the_same_run_gives_the_same_bytes(
    run: Path, page: Path, root: Path, tmp_path: Path
) -> None:
    assert main(["report", str(run), "-o", str(tmp_path / "again.html"), "-q"]) == 0
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    shutil.copytree(root, tmp_path / "moved")
    words = ["report", str(run), "-o", str(tmp_path / "b.html"), "--data", str(tmp_path / "moved")]
    assert main([*words, "-q"]) == 0
    assert (tmp_path / "b.html").read_bytes() == page.read_bytes()


def test_a_report_takes_the_place_of_reports_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "model.safetensors"
    other.write_text("a model")
    assert main(["report", str(run), "-o", str(other)]) == 2
    assert "no HTML file, but would be replaced" in capsys.readouterr().err
    assert other.read_text() == "a model"


def test_mistakes_come_first(page: Path) -> None:
    images = details(page)
    # How many times its threshold a normal image scores, or an anomalous one falls short of it.
    ratios = [image["score"] / image["threshold"] for image in images]
    wrong_by = [
        ratio if image["label"] == "normal" else 1 / ratio
        for image, ratio in zip(images, ratios, strict=True)
    ]
    assert wrong_by == sorted(wrong_by, reverse=True)
    for image, times in zip(images, wrong_by, strict=True):
        verdicts = ("false alarm", "passed") if image["label"] == "normal" else ("missed", "found")
        assert image["verdict"] == verdicts[times <= 1]
    assert (images[0]["name"], images[0]["verdict"]) == ("test/spot/unseen.png", "missed")
    assert [image["verdict"] for image in images].count("found") == 7  # every spot


def test_missing_images_are_named_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.html"
    assert main(["report", str(run), "-o", str(out), "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}")
    assert said.count("\n") == 1
    assert "--data ROOT" in said
    assert not out.exists()
    assert main(["report", str(tmp_path)]) == 1
    assert "no folder that padim benchmark" in capsys.readouterr().err


def test_full_size_keeps_the_size(run: Path, page: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), "-o", str(tmp_path / "f.html"), "--full-size", "-q"]) == 0
    assert (tmp_path / "f.html").stat().st_size > page.stat().st_size


def test_an_outline_goes_round_a_mask() -> None:
    mask = np.zeros((6, 6), np.bool_)
    mask[1:3, 1:4] = True
    mask[3, 1] = mask[5, 5] = True
    assert outline_path(mask) == "M1 1h3v2h-2v1h-1v-3zM5 5h1v1h-1v-1z"
    assert outline_path(np.zeros((3, 3), np.bool_)) == ""


def test_the_gallery_sorts_and_filters(browser: webdriver.Chrome, page: Path) -> None:
    images = details(page)
    assert shown(browser) == list(range(N_IMAGES))
    choose(browser, "sort", "descending")
    scores = [images[i]["score"] for i in shown(browser)]
    assert scores == sorted(scores, reverse=True)
    choose(browser, "sort", "ascending")
    assert [images[i]["score"] for i in shown(browser)] == scores[::-1]
    choose(browser, "sort", "name")
    names = [images[i]["category"] for i in shown(browser)]
    assert names == sorted(names)

    choose(browser, "verdict", "wrong")
    verdicts = {images[i]["verdict"] for i in shown(browser)}
    assert "missed" in verdicts
    assert verdicts <= {"missed", "false alarm"}
    choose(browser, "verdict", "")
    choose(browser, "defect", "<")
    assert [images[i]["name"] for i in shown(browser)] == [f"test/{NASTY[0]}"]
    assert browser.find_element("id", "count").text == f"1 of {N_IMAGES} images"
    category = browser.find_element("css selector", "#category option[value='bottle']")
    assert category.text == "bottle (0)"
    category.click()
    assert browser.find_element("id", "nothing").is_displayed()


def test_a_card_opens_large_by_click_and_by_keyboard(browser: webdriver.Chrome, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    images = details(page)
    dialog = browser.find_element("id", "large")
    title = browser.find_element("id", "large-name")
    cards = browser.find_elements("css selector", ".card button")
    cards[1].click()
    assert dialog.is_displayed()
    assert title.text == images[1]["name"]
    assert browser.find_element("id", "large-score").text == f"{images[1]['score']:.2f}"
    levels = browser.find_elements("css selector", ".level b")
    assert [level.text for level in levels] == [f"{x:.2f}×" for x in images[1]["levels"]]
    press(browser, Keys.ARROW_RIGHT)
    assert title.text == images[2]["name"]
    press(browser, Keys.ARROW_LEFT)
    press(browser, Keys.ARROW_LEFT)
    assert title.text == images[0]["name"]
    browser.find_element("id", "next").click()
    browser.find_element("id", "previous").click()
    assert not browser.find_element("id", "previous").is_enabled()
    press(browser, Keys.ARROW_RIGHT)
    assert title.text == images[1]["name"]
    press(browser, Keys.ARROW_LEFT)
    press(browser, Keys.ESCAPE)
    assert not dialog.is_displayed()

    # The focus goes to the card that was shown last; a dialog says only later that it closed.
    WebDriverWait(browser, 5).until(lambda chrome: chrome.switch_to.active_element == cards[0])
    press(browser, Keys.TAB)
    press(browser, Keys.ENTER)
    assert dialog.is_displayed()
    assert title.text == images[1]["name"]


def test_the_map_fades_and_the_outline_goes(browser: webdriver.Chrome, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    images = details(page)
    (index, *_) = [i for i, image in enumerate(images) if image["outline"]]
    browser.find_elements("css selector", ".card button")[index].click()
    anomaly_map = browser.find_element("id", "large-map")
    slider = browser.find_element("id", "opacity")
    assert float(anomaly_map.value_of_css_property("opacity")) == 0.6
    slider.send_keys(Keys.HOME)
    assert float(anomaly_map.value_of_css_property("opacity")) == 0
    slider.send_keys(Keys.END)
    assert float(anomaly_map.value_of_css_property("opacity")) == 1
    outline = browser.find_element("id", "large-outline")
    assert outline.is_displayed()
    browser.find_element("id", "outline").click()
    assert outline.value_of_css_property("display") == "none"
    browser.find_element("id", "outline").click()
    assert outline.value_of_css_property("display") != "none"


def test_sections_fold_and_unfold(browser: webdriver.Chrome, page: Path) -> None:
    are_open = "return [...document.querySelectorAll('details')].map((section) => section.open)"
    button = browser.find_element("id", "unfold")
    assert browser.execute_script(are_open) == [True, True, False]
    assert button.text == "Close all"
    button.click()
    assert browser.execute_script(are_open) == [False, False, False]

    browser.execute_script(
        "addEventListener('beforeprint', () => { window.printed = (() => {" + are_open + "})(); })"
    )
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert browser.execute_script("return window.printed") == [True, True, True]
    assert browser.execute_script(are_open) == [False, False, False]

    browser.find_element("css selector", "th a[href='#category-2']").click()
    assert browser.execute_script(are_open) == [False, True, False]
    choose(browser, "defect", "<")
    browser.find_element("css selector", "#category-2 [data-category]").click()
    images = details(page)
    assert {images[i]["category"] for i in shown(browser)} == {"carpet"}
    assert len(shown(browser)) == sum(image["category"] == "carpet" for image in images)


def test_what_is_of_one_seed_says_so(seeds_page: Path) -> None:
    text = seeds_page.read_text()
    document = json.loads((seeds_page.parent / "results.json").read_text())
    (row,) = document["rows"]
    spread = f'<span class="spread">± {row["spread"]["image_auroc"]:.3f}</span>'
    assert f"<td>{row['image_auroc']:.3f} {spread}" in text
    record = json.loads((seeds_page.parent / "records/carpet.json").read_text())
    assert f'aria-label="Image ROC, AUROC: {record["row"]["image_auroc"]:.3f}"' in text
    assert text.count("of the first of 2 seeds") == 2


def test_what_a_model_does_not_see_is_dimmed(
    browser: webdriver.Chrome, page: Path, seeds_page: Path
) -> None:
    is_shown = "return !document.getElementById('window').hidden"
    browser.execute_script("document.querySelector('.card button').click()")
    assert not browser.execute_script(is_shown)
    with opened(seeds_page) as chrome:
        chrome.execute_script("document.querySelector('.card button').click()")
        assert chrome.execute_script(is_shown)
        seen, anomaly_map = (chrome.find_element("id", name) for name in ("window", "large-map"))
        assert seen.rect == anomaly_map.rect
        assert 0 < seen.rect["width"] < chrome.find_element("id", "stage").rect["width"]


def test_changed_images_are_told(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, tmp_path / "data")
    striped(999, 48).save(tmp_path / "data/carpet/test/good/0.png")
    out = tmp_path / "o.html"
    words = ["report", str(run), "-o", str(out), "--data", str(tmp_path / "data"), "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["changed"] == ["carpet: test/good/0.png"]
    assert said.err.startswith("warning: Of another size")
    assert "carpet: test/good/0.png" in said.err
    assert "Files that changed since the benchmark: 1" in out.read_text()


@pytest.mark.parametrize("way", ["root", "absolute", "parent", "link"])
def test_a_run_from_elsewhere_shows_no_file_of_this_machine(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """With a folder named or not, and whatever size the record says that the file has."""
    stolen, private = tmp_path / "run", tmp_path / "private/test/good/0.png"
    private.parent.mkdir(parents=True)
    striped(1).save(private)
    shutil.copytree(run, stolen)
    data = Path(shutil.copytree(root, tmp_path / "data"))
    path = stolen / "records/carpet.json"
    record = json.loads(path.read_text())
    name = record["images"][0]["path"]
    wanted = {"absolute": str(private), "parent": "../../private/test/good/0.png"}.get(way, name)
    if way == "root":
        record["root"] = str(tmp_path / "private")
    elif way == "link":
        record["root"] = str(data / "carpet")
        (data / "carpet" / name).unlink()
        (data / "carpet" / name).symlink_to(private)
    record["images"][0]["path"] = wanted
    stamps = record["fingerprint"]["images"]
    stamps[:] = [[wanted, private.stat().st_size, 0], *(one for one in stamps if one[0] != name)]
    path.write_text(json.dumps(record))
    words = ["report", str(stolen), "-o", str(tmp_path / "o.html"), "-q"]
    for more in ([], [] if way == "root" else ["--data", str(data)]):
        assert main([*words, *more]) == 1
        said = capsys.readouterr().err
        assert "not the file that was benchmarked" in said or "is not there" in said
        assert not (tmp_path / "o.html").exists()


def test_maps_that_are_none_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "previews/carpet.npy"
    for dtype, shape in (("<f4,<f4", (2, 4, 4)), ("<f2", (1 << 40, 64, 64))):
        with path.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "shape": shape}
            np.lib.format.write_array_header_1_0(file, header | {"fortran_order": False})
            file.write(bytes(256))
        assert main(["report", str(copy), "-o", str(tmp_path / "a.html")]) == 1
        assert f"{path} cannot be read, but holds the maps." in capsys.readouterr().err


def test_a_curve_may_rise_where_its_chart_ends() -> None:
    assert (
        curve([[0, 0.5, 1, 1], [0, 0, 0, 1]], 1) == "M40.0 200.0L174.0 200.0L308.0 200.0L308.0 12.0"
    )
    assert curve([[0, 1], [0, 1]], 0.5) == "M40.0 200.0L308.0 106.0"
    assert curve([[0], [0]], 1) == ""


def test_a_threshold_above_all_scores_is_in_the_chart() -> None:
    drawn = histogram(np.array([1.0, 2.0]), np.array([False, True]), 5.0)
    assert drawn is not None
    across, text = drawn["threshold"]
    assert text == "5.0"
    assert 40 < across < 308


@pytest.mark.parametrize("is_dark", [False, True])
def test_text_can_be_told_from_its_ground(page: Path, is_dark: bool) -> None:
    blocks = re.findall(r":root \{(.*?)\}", page.read_text(), re.DOTALL)
    colours: dict[str, str] = {}
    for block in blocks[: 1 + is_dark]:
        colours |= dict(re.findall(r"--(\S+): (#\w+);", block))

    def luminance(name: str) -> float:
        digits = colours[name][1:]
        whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        parts = np.frombuffer(bytes.fromhex(whole), np.uint8) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    def contrast(ink: str, paper: str) -> float:
        low, high = sorted((luminance(ink), luminance(paper)))
        return (high + 0.05) / (low + 0.05)

    # WCAG 2.2, level AA: text, and the edges of what can be used.
    for paper in ("paper", "raised"):
        for ink in ("ink", "soft", "normal", "anomalous", "focus"):
            assert contrast(ink, paper) >= 4.5, (ink, paper)
        assert contrast("edge", paper) >= 3
    assert contrast("wrong-ink", "wrong-paper") >= 4.5


@pytest.mark.parametrize("width_px", [390, 820, 1440])
def test_nothing_runs_over_the_edge(browser: webdriver.Chrome, width_px: int) -> None:
    size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    over = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(over) <= 0
    if width_px > 500:
        over = (
            "return [...document.querySelectorAll('.scroll')]"
            ".map((table) => table.scrollWidth - table.clientWidth)"
        )
        assert max(browser.execute_script(over)) <= 0
    browser.execute_script("document.querySelector('.card button').click()")
    over = "const d = document.getElementById('large'); return d.scrollWidth - d.clientWidth"
    assert browser.execute_script(over) <= 0


def test_a_printed_page_cuts_no_table(browser: webdriver.Chrome) -> None:
    browser.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    # A4 within its margins is 182 mm wide.
    size = {"width": 688, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    rights = (
        "return [...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"
    )
    assert max(browser.execute_script(rights)) <= 688
    assert not browser.find_element("id", "sort").is_displayed()
    assert not browser.find_element("id", "unfold").is_displayed()


def test_a_line_scan_is_shown_whole(tmp_path: Path) -> None:
    folder = make_category(tmp_path / "data", n_test=1)
    Image.new("L", (72, 17_000)).save(folder / "test/good/long.png")
    out = tmp_path / "run"
    words = ("--size", "64", "--engine", "torch", "-q")
    assert main(["benchmark", str(folder), "-o", str(out), *words]) == 0
    assert main(["report", str(out), "--full-size", "-q"]) == 0
    text = (out / "report.html").read_text()
    assert '"source_px":[17000,72]' in text


def test_a_category_without_test_images_has_a_report(tmp_path: Path) -> None:
    folder = make_category(tmp_path / "data", n_test=0)
    out = tmp_path / "run"
    words = ("--size", "64", "--engine", "torch", "-q")
    assert main(["benchmark", str(folder), "-o", str(out), *words]) == 0
    assert main(["report", str(out), "-q"]) == 0
    assert "n/a" in (out / "report.html").read_text()
