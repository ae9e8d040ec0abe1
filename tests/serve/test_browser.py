"""The page in a real browser: type, read, ask why, click a unit. Skipped without Chromium, its driver or selenium."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs chromium and chromedriver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
EVIL = "<img src=x onerror=window.evil=1><script>window.evil=1</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def site(start: Any, runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run with an example, whose folder and first label are markup; and one of slots."""
    folder = Path(shutil.copytree(runs["sentiment"], tmp_path_factory.mktemp("runs") / EVIL.replace("/", "∕")))
    labels = folder / "classes.json"
    labels.write_text(
        json.dumps(json.loads(labels.read_text("utf-8"))).replace('"negative"', json.dumps(EVIL)), "utf-8"
    )
    row = {"text": f"a dull film {EVIL}", "gold": EVIL, "prediction": "positive"}
    (folder / "dev.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    with start(folder, runs["slots"]) as server:
        yield server


def text_of(browser: Any, selector: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, selector).text)


def until(browser: Any, selector: str, says: str) -> str:
    """Wait until an element says something."""
    WebDriverWait(browser, 30, ignored_exceptions=[Exception]).until(lambda _: says in text_of(browser, selector))
    return text_of(browser, selector)


def open_page(browser: Any, site: Any) -> None:
    browser.get(f"http://127.0.0.1:{site.port}/")
    until(browser, "#about", "parameters")


def type_text(browser: Any, text: str) -> None:
    box = browser.find_element(By.ID, "text")
    box.clear()
    box.send_keys(text)


def click(browser: Any, selector: str) -> None:
    browser.find_element(By.CSS_SELECTOR, selector).click()


def test_type_read_ask_why_and_click_a_unit(browser: Any, site: Any, tmp_path: Path) -> None:
    open_page(browser, site)
    assert text_of(browser, "#answer") == ""
    type_text(browser, "a superb film")
    until(browser, "#status", "Answered in")
    name = next(iter(site.models))
    want = site.predict(run=name, text="a superb film").json["predictions"][0]
    shares = [line for line in text_of(browser, "#answer").splitlines() if line.endswith("%")]
    assert shares[0] == f"{100 * max(want['probabilities'].values()):.0f}%"
    click(browser, "[data-what=words]")
    until(browser, "#explanation", "Occlusion")
    click(browser, "[data-what=gates]")
    until(browser, "#explanation", "Click a picture")
    WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "[data-gates][data-ready]"))
    click(browser, "#explanation img[data-map]")
    assert until(browser, "#explanation .pick", "Unit").count("Unit") == 1
    type_text(browser, "")
    browser.find_element(By.ID, "text").send_keys(" ")
    until(browser, "#explanation", "")
    assert "old" in browser.find_element(By.ID, "explanation").get_attribute("class")
    picture = tmp_path / "page.png"
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 5000


def test_choose_a_run_and_read_its_slots(browser: Any, site: Any) -> None:
    open_page(browser, site)
    browser.find_elements(By.CSS_SELECTOR, "#runs button")[1].click()
    until(browser, "#about", "slots")
    type_text(browser, "Find the superb film.")
    until(browser, "#status", "Answered in")
    found = site.predict(run="slots-finished", text="Find the superb film.").json["predictions"][0]
    assert text_of(browser, "#answer .headline") == found["intent"]
    marks = [element.text for element in browser.find_elements(By.CSS_SELECTOR, "#answer mark")]
    assert marks == [f"{slot['text']} {slot['type']}" for slot in found["slots"]]


def test_no_script_of_a_text_a_label_or_a_run_runs(browser: Any, site: Any) -> None:
    open_page(browser, site)
    assert "<img" in text_of(browser, "h1")
    assert "<img" in text_of(browser, "#examples")
    click(browser, "#examples button")
    until(browser, "#status", "Answered in")
    assert "<img" in text_of(browser, "#answer")
    for what, says in (("words", "Occlusion"), ("gates", "Click a picture")):
        click(browser, f"[data-what={what}]")
        until(browser, "#explanation", says)
    browser.execute_script(
        """
        const part = document.createElement("div");
        part.innerHTML = arguments[0];
        document.body.append(part);
        """,
        EVIL,
    )  # fmt: skip (even as markup it does not run)
    time.sleep(0.3)
    assert browser.execute_script("return window.evil") is None
    blocked = [
        entry["message"] for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]
    ]
    assert blocked


def test_an_earlier_answer_does_not_replace_a_later_one(
    browser: Any, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = site.models["slots-finished"].batcher
    plain: Callable[..., list[str]] = batcher._answer
    began, end = threading.Event(), threading.Event()

    def slow(by: Any, items: list[Any]) -> list[str]:
        if items == ["Find"]:
            began.set()
            end.wait(60)
        return plain(by, items)

    monkeypatch.setattr(batcher, "_answer", slow)
    open_page(browser, site)
    browser.find_elements(By.CSS_SELECTOR, "#runs button")[1].click()
    type_text(browser, "Find")
    assert began.wait(60)
    browser.find_element(By.ID, "text").send_keys(" a warm film.")
    while not batcher.waiting:
        time.sleep(0.01)
    end.set()
    until(browser, "#answer .tagged", "warm")
    time.sleep(0.2)
    assert "warm" in text_of(browser, "#answer .tagged")


def test_errors_are_shown(browser: Any, site: Any) -> None:
    open_page(browser, site)
    browser.execute_script("document.getElementById('text').value = 'film '.repeat(2000)")
    browser.find_element(By.ID, "text").send_keys("x")
    assert "tokens are too many" in until(browser, "#answer [role=alert]", "texts[0]")


def test_the_page_loads_nothing_from_elsewhere_and_has_no_faults(browser: Any, site: Any) -> None:
    browser.get_log("browser")
    for width in (1000, 390):
        browser.set_window_size(max(width, 500), 900)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        open_page(browser, site)
        type_text(browser, "a superb film " * 20)
        until(browser, "#status", "Answered in")
        click(browser, "[data-what=gates]")
        until(browser, "#explanation", "Click a picture")
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert all(name.startswith((f"http://127.0.0.1:{site.port}/", "data:")) for name in loaded)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
