"""The report in headless Chromium: nothing overflows, nothing is fetched, and axe finds no serious fault."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files

import pytest

from linchain.lab.report import write_report
from tests.lab import synthetic

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 800, 1400)
LONG = "a-contestant-whose-name-is-longer-than-any-table-would-like-it-to-be"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    methods = ["lora", {"name": "linchain", "label": LONG}, "bone-col"]
    made = synthetic.comparison(
        root / "word problems", methods=methods, learning_rates=[1e-4, 1e-3], seeds=2, n=40, failing=("bone-col", 1e-4)
    )
    return write_report([made], root / "out")


@pytest.fixture(scope="module")
def browser():
    chromium = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its chromedriver is installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_script_timeout(200)
    yield opened
    opened.quit()


def show(browser, report, width, theme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(report.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits(browser, report, width):
    show(browser, report, width, "light")
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('section, figure, table, .plot, h1, h2, h3, h4')]"
        ".filter(one => one.getClientRects().length == 0 || one.getBoundingClientRect().height < 8)"
        ".map(one => one.id || one.outerHTML.slice(0, 80))"
    )
    assert hidden == []
    outside = browser.execute_script(
        "return [...document.querySelectorAll('p, figcaption, li, summary, svg.plot text')]"
        ".filter(one => !one.closest('nav') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.textContent)"
    )
    assert outside == []


def test_nothing_is_fetched_and_nothing_goes_wrong(browser, report):
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, report, 800, "dark")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert set(asked) <= {report.as_uri(), "data:,"}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, report, theme):
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    show(browser, report, 800, theme)
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run().then(done, error => done({error: String(error)}))"
    )
    assert "error" not in found
    assert len(found["passes"]) > 20
    faults = [
        (fault["id"], fault["impact"], [node["html"][:120] for node in fault["nodes"]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []


def test_the_themes_differ(browser, report):
    colours = []
    for theme in ("light", "dark"):
        show(browser, report, 800, theme)
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
