"""The HTML pages in a real browser: headless Chromium, at 1280 and 400 pixels, in light and dark."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import report_runs
from report_runs import POWER, edited, renamed

from quantwright.report import page
from quantwright.report.run import read_checked, read_run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver on PATH (apt-get install chromium-driver)"
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")  # fmt: skip


class Browser:
    """Shows pages in a size and in colours, and knows what they asked for and complained about."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = str(CHROMIUM)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def show(self, path: Path | str, width: int = 1280, colours: str = "light") -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": colours}]}
        )
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.complaints(), self.requests()  # what came before is no longer of interest
        self.driver.get(path.as_uri() if isinstance(path, Path) else path)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    def count(self, selector: str) -> int:
        return int(self.js("document.querySelectorAll(arguments[0]).length", selector))

    def texts(self, selector: str) -> list[str]:
        found = self.js("[...document.querySelectorAll(arguments[0])].map((node) => node.innerText.trim())", selector)
        return [str(text) for text in found]

    def click(self, selector: str) -> None:
        from selenium.webdriver.common.by import By

        node = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node)
        node.click()

    def write(self, selector: str, text: str) -> None:
        from selenium.webdriver.common.by import By

        field = self.driver.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text or " ")

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.select import Select

        Select(self.driver.find_element(By.CSS_SELECTOR, selector)).select_by_value(value)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        own = ("chrome://", "data:")  # what the browser itself is made of, and what comes from nowhere
        return [url for url in urls if not url.startswith(own)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    first, second = (report_runs.make(folder / name, config) for name, config in (("a", "int8"), ("b", POWER)))
    both = page.render_comparison(read_checked(first), read_checked(second))
    (folder / "both.html").write_text(both, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["a/report.html", "both.html"])
def test_it_shows_without_complaint_or_request_and_fits(
    name: str, width: int, colours: str, home: Path, browser: Browser
) -> None:
    browser.show(home / name, width, colours)
    assert browser.requests() == [(home / name).as_uri()]
    assert browser.complaints() == []
    assert browser.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    charts = browser.js("[...document.querySelectorAll('.chart svg')].map((n) => n.getBoundingClientRect().width)")
    assert charts and all(60 < chart <= width for chart in charts)
    dark = brightness(browser, "document.body", "backgroundColor") < 60
    assert dark == (colours == "dark")
    for node in ("document.body", "document.querySelector('section p')", "document.querySelector('td')"):
        assert contrast(browser, node) >= 4.5  # WCAG 2.2, 1.4.3
    cut = browser.js(
        "[...document.querySelectorAll('h1, h2, h3, .tile, .verdict, .controls > *')].filter("
        "(n) => n.offsetParent && n.getBoundingClientRect().right > innerWidth).length"
    )
    assert cut == 0


def brightness(browser: Browser, node: str, what: str) -> float:
    rgb = browser.js(f"getComputedStyle({node}).{what}.match(/[0-9.]+/g).map(Number)")
    return sum(rgb[:3]) / 3


def contrast(browser: Browser, node: str) -> float:
    """Returns the contrast ratio of a node's text on the nearest background that is not transparent."""
    script = (
        "(() => { let at = NODE; const ink = getComputedStyle(at).color; let paper = 'rgba(0, 0, 0, 0)';"
        " while (at && paper === 'rgba(0, 0, 0, 0)')"
        " { paper = getComputedStyle(at).backgroundColor; at = at.parentElement; }"
        " return [ink, paper].map((text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number)); })()"
    )

    def luminance(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in rgb)]
        return sum(factor * c for factor, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(luminance(rgb) for rgb in browser.js(script.replace("NODE", node)))
    return (high + 0.05) / (low + 0.05)


def test_the_plan_is_searched_filtered_and_opened(home: Path, browser: Browser) -> None:
    browser.show(home / "b" / "report.html")
    plan = read_run(home / "b").plan
    rows = "#plan-table tbody tr"
    assert browser.count(rows) == len(plan.decisions)
    browser.write("#plan-search", "0.weight")
    assert [text.split("\n")[0] for text in browser.texts(f"{rows} td.name")] == [
        d.point.name for d in plan.decisions if "0.weight" in f"{d.point.name} {d.relation}"
    ]
    browser.write("#plan-search", "no such thing at all")
    assert browser.texts(rows) == ["Nothing matches."]
    browser.write("#plan-search", "")
    browser.choose("#plan-role", "weight")
    browser.choose("#plan-format", "int8")
    wanted = [d.point.name for d in plan.decisions if d.point.role == "weight" and d.spec and d.spec.format == "int8"]
    assert browser.texts(f"{rows} td.name") == wanted and wanted
    assert browser.texts("#plan-count") == [f"{len(wanted)} of {len(plan.decisions)}"]
    browser.click(f"{rows}:first-child")
    chain = browser.texts(".chain")[0]
    decision = plan[wanted[0]]
    for name, steps in decision.reasons.items():
        assert name in chain and all(str(step.source) in chain for step in steps)
    won = browser.texts(".chain .step .won")
    assert won and set(won) == {"won"} and len(won) == sum(len(steps) > 1 for steps in decision.reasons.values())
    assert browser.count(".chain .step:not(:first-child) .won") == 0
    browser.click(f"{rows}:first-child")
    assert browser.count(".chain") == 0


def test_losing_candidates_are_found_and_every_source_is_listed(home: Path, browser: Browser) -> None:
    browser.show(home / "b" / "report.html")
    plan = read_run(home / "b").plan
    gone = [d.point.name for d in plan.decisions if d.why_float.startswith("excluded by rule 1 (name 4)")]
    browser.write("#plan-search", "rule 1 (name 4)")
    assert browser.texts("#plan-table tbody td.name") and len(gone) >= 2
    assert {text.split("\n")[0] for text in browser.texts("#plan-table tbody td.name")} >= set(gone)
    rows = {text.split("\n")[0]: text for text in browser.texts("#origins-table tbody tr")}
    assert any(name.startswith("rule 1 (name 4)") for name in rows) and any("default" in name for name in rows)
    assert any(".py:" in text for text in rows.values()), "the call site of a configuration made in Python"
    browser.write("#plan-search", "")
    browser.click("#origins-table tbody tr:first-child")
    first = next(iter(rows)).split("\t")[0]
    assert browser.js("document.getElementById('plan-search').value") == first
    wanted = [d for d in plan.decisions if any(s.source.text == first for r in d.reasons.values() for s in r)]
    assert browser.count("#plan-table tbody tr") >= len(wanted) > 0


def test_layers_are_sorted_worst_first_and_lead_to_their_histogram(home: Path, browser: Browser) -> None:
    browser.show(home / "a" / "report.html")
    measured = read_run(home / "a").measured["activations"]
    (output,) = (read_run(home / "a").record.verdict or {})["outputs"]  # of the network, float, measured by verify
    rows = {**{one["point"]: one["sqnr_db"] for one in measured}, "6:output": output["sqnr_float_db"]}
    worst = sorted(rows, key=lambda name: float(rows[name]))
    assert browser.texts("#layers-table tbody td.name") == worst
    browser.click("#layers-table th:nth-child(4) button")
    assert browser.texts("#layers-table tbody td.name")[0] == worst[-1]
    target = worst[-1]
    browser.click("#layers-table tbody tr:first-child")
    assert browser.js("document.getElementById('values-select').value") == target
    one = next(one for one in measured if one["point"] == target)
    facts = " ".join(browser.texts("#values-facts"))
    assert f"{one['below'] + one['above']} of" in facts and "SQNR" in facts
    before = browser.js("document.querySelector('#values-chart path.fill').getAttribute('d')")
    browser.click("#values-log")
    assert browser.js("document.querySelector('#values-chart path.fill').getAttribute('d')") != before
    browser.click("#values-after")
    assert browser.js("document.getElementById('values-select').value") != target
    browser.write("#layers-search", "input")
    assert browser.texts("#layers-table tbody td.name") == [name for name in worst[::-1] if "input" in name]
    browser.write("#layers-search", "")
    browser.choose("#layers-kind", "weights")
    parameters = read_run(home / "a").measured["parameters"]
    assert browser.count("#layers-table tbody tr") == sum(one["role"] == "weight" for one in parameters)


def test_weights_are_drawn_channel_by_channel_with_tooltips(home: Path, browser: Browser) -> None:
    browser.show(home / "a" / "report.html")
    parameters = [one for one in read_run(home / "a").measured["parameters"] if one.get("channels")]
    for one in parameters:
        browser.write("#weights-search", one["point"])
        browser.click("#weights-table tbody tr:first-child")
        assert browser.texts("#weights-title") == [one["point"]]
        assert browser.count("#weights-chart rect.hit") == len(one["channels"]["low"])
    hover = (
        "document.querySelector('#weights-chart rect.hit').dispatchEvent("
        "new PointerEvent('pointermove', {clientX: 200, clientY: 200, bubbles: true}))"
    )
    browser.js(hover)
    assert "channel 0" in browser.texts("#tip")[0] and "of its reach" in browser.texts("#tip")[0]


def test_the_button_changes_the_colours(home: Path, browser: Browser) -> None:
    browser.show(home / "a" / "report.html", colours="light")
    light = brightness(browser, "document.body", "backgroundColor")
    browser.click("#theme")
    assert brightness(browser, "document.body", "backgroundColor") < 60 < light
    browser.click("#theme")
    assert brightness(browser, "document.body", "backgroundColor") == light


def test_changed_decisions_are_searched(home: Path, browser: Browser) -> None:
    browser.show(home / "both.html")
    everything = browser.texts("#changes-count")
    browser.choose("#changes-field", "scale")
    assert set(browser.texts("#changes-table tbody td:nth-child(2)")) == {"scale"}
    assert browser.texts("#changes-count") != everything
    assert any("power_of_two" in text for text in browser.texts("#changes-table tbody td:nth-child(3)"))


def test_names_are_shown_as_they_are_and_run_nothing(home: Path, browser: Browser, tmp_path: Path) -> None:
    folder = edited(home / "a", tmp_path / "nasty", renamed)
    (folder / "report.html").write_text(page.render(read_run(folder)), encoding="utf-8")
    browser.show(folder / "report.html")
    assert "owned" in browser.texts("h1")[0] and browser.js("document.title") != "owned"
    assert browser.complaints() == []
    assert any("<script>" in text for text in browser.texts("#plan-table td.name"))
    browser.click("#layers-table tbody tr:first-child")
    assert browser.count("main script, main b:not(.tag b, .verdict b, .chain b, .meter b)") == 0


def test_it_shows_from_a_server_too(home: Path, browser: Browser) -> None:
    """Where the page comes over HTTP, as on a server of build results, it asks for nothing else either."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(home))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/a/report.html"
        browser.show(address)
        assert browser.requests() == [address] and browser.complaints() == []
        assert browser.count("#values-chart svg") == 1
        server.shutdown()
