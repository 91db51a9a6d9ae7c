"""Writes ``docs/report.png``: the top of the report of a real run, as headless Chromium shows it.

``python docs/make_picture.py`` needs chromium and chromedriver. It quantizes the digits network with the preset
``int8``; the long tables are folded away before the picture is taken, and nothing else is changed.
"""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from quantwright import cli

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "report.png"
WIDTH = 1120
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
FOLDED = "#layers .controls, #layers table, #layers button, #values h3, #values h3 ~ * { display: none !important }"


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Yields a headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def shot(driver: Any, page: Path) -> Image.Image:
    """Returns the page from its top to the end of the section of values."""
    screen = {"width": WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(page.as_uri())
    driver.execute_script(
        "document.head.appendChild(document.createElement('style')).textContent = arguments[0]", FOLDED
    )
    end = driver.execute_script("return document.querySelector('#values').getBoundingClientRect().bottom + scrollY")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": float(end) + 16, "scale": 1}
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return Image.open(io.BytesIO(base64.b64decode(taken["data"])))


def main() -> int:
    """Returns 0 after writing the picture, or what the command returned."""
    digits = ROOT / "examples" / "digits"
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "digits"
        model, data, held = f"{digits}/model.py:digits", f"{digits}/data.py:calibration", f"{digits}/data.py:test"
        code = cli.main(
            ["quantize", model, "--config", "int8", "--data", data, "--eval", "--eval-data", held, "--out", str(out)]
        )
        if code == 0:
            with browser() as driver:
                shot(driver, out / "report.html").convert("RGB").save(PICTURE, optimize=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
