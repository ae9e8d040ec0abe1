"""The gate viewer in a browser: a click picks a unit, and its numbers are those of the trace."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkit.drawing import Map, Panel, Word, gate_viewer, page

pytest.importorskip("jinja2")
webdriver = pytest.importorskip("selenium.webdriver")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(DRIVER is None, reason="no chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_a_click_shows_the_numbers_of_a_unit(browser: Any, tmp_path: Path) -> None:
    values = np.arange(12).reshape(3, 4) / 8 - 0.5
    panels = [Panel("layer 1", [Map("gate", 1 / (1 + np.exp(-values))), Map("c", values)])]
    words = [Word("one"), Word("</script>"), Word("three")]
    (tmp_path / "page.html").write_text(page("gates", "", [gate_viewer(words, panels, "")]), "utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    picture = browser.find_elements("css selector", "img[data-map]")[1]
    # From the middle of the picture: the second row of four from above lies a little above it.
    actions = webdriver.ActionChains(browser)
    actions.move_to_element_with_offset(picture, 0, -picture.size["height"] // 8).click().perform()
    says = browser.find_element("css selector", ".pick").text
    unit = int(says.split(",")[0].removeprefix("Unit "))
    data = browser.execute_script("return JSON.parse(document.querySelector('[data-gates] script').textContent)")
    assert unit == data["panels"][0]["maps"][1]["units"][1]
    assert "</script>" in says
    assert float(says.rpartition(" c ")[2]) == pytest.approx(values[1, unit], abs=1e-3)
    rows = browser.find_elements("css selector", ".picked tr")
    assert [row.find_element("tag name", "th").text for row in rows] == ["gate", "c"]
    shown = [float(cell.text) for cell in rows[1].find_elements("tag name", "td")]
    assert shown == pytest.approx(values[:, unit].tolist(), abs=6e-3)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
