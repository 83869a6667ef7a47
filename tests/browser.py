"""A page as a real browser shows it: Chromium without a window, cut off from every network.

What a page fetches would fail and be among its complaints, so a file that looks right here needs nothing but itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

__all__ = ["DESKTOP", "PHONE", "Browser", "browser", "missing"]

PHONE: Final = 390
DESKTOP: Final = 1440
"""Widths of a window, in CSS pixels."""

_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_DRIVERS: Final = ("chromedriver", "chromium.chromedriver")

_WIDER: Final = """
const wider = [];
for (const each of document.querySelectorAll('body *')) {
  let inside = each.parentElement, scrolls = false;
  while (inside && inside !== document.body) {
    if (['auto', 'scroll'].includes(getComputedStyle(inside).overflowX)) { scrolls = true; break; }
    inside = inside.parentElement;
  }
  const box = each.getBoundingClientRect();
  if (!scrolls && box.width > 0 && (box.right > innerWidth + 1 || box.left < -1)) wider.push(each.tagName);
}
return wider;
"""
"""Elements that reach beyond the window and in no box that scrolls."""

_OUTSIDE: Final = """
const outside = [];
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  for (const each of svg.querySelectorAll('text, line, circle, rect, polyline, path')) {
    const box = each.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
        || box.bottom > frame.bottom + 1) {
      outside.push((svg.getAttribute('aria-label') || 'svg') + ': ' + (each.textContent || each.tagName));
    }
  }
}
return outside;
"""
"""Marks and words of plots that their frame cuts off."""

_OVERLAPPING: Final = """
const found = [];
for (const svg of document.querySelectorAll('svg')) {
  const words = [...svg.querySelectorAll('text')].map(each => [each.textContent, each.getBoundingClientRect()]);
  for (let i = 0; i < words.length; i++) for (let j = i + 1; j < words.length; j++) {
    const [a, p] = words[i], [b, q] = words[j];
    if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2) {
      found.push(a + ' / ' + b);
    }
  }
}
return found;
"""
"""Words of plots that lie on each other."""


def missing() -> str | None:
    """Why there is no browser to test with; None where there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "the package selenium is not installed"
    if _first(_BROWSERS) is None:
        return "there is no Chromium (Debian: apt-get install chromium chromium-driver)"
    if _first(_DRIVERS) is None:
        return "there is no chromedriver (Debian: apt-get install chromium-driver)"
    return None


class Browser:
    """A browser on one page at a time."""

    def __init__(self, driver: WebDriver) -> None:
        self._driver = driver

    def open(self, page: Path, width: int, *, height: int = 900) -> None:
        """Show a file in a window of this size."""
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width <= PHONE},
        )
        self._driver.get(page.resolve().as_uri())

    def complaints(self) -> list[str]:
        """What the console says, requests that failed among it, since the last call."""
        return [f"{each['level']}: {each['message']}" for each in self._driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def ask(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self._driver.execute_script(script)  # type: ignore[no-untyped-call]

    def too_wide(self) -> list[str]:
        """Elements that reach beyond the window, and not in a box of their own that scrolls."""
        found: list[str] = self.ask(_WIDER)
        return found

    def cut_off(self) -> list[str]:
        """Marks and words that reach out of their plot."""
        found: list[str] = self.ask(_OUTSIDE)
        return found

    def overlapping(self) -> list[str]:
        """Pairs of words in a plot that lie on each other."""
        found: list[str] = self.ask(_OVERLAPPING)
        return found

    def smallest_words_px(self) -> float:
        """Height of the smallest letters in any plot, as they appear."""
        found: float = self.ask(
            "return Math.min(...[...document.querySelectorAll('svg text')].map(each => "
            "parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().a))"
        )
        return found

    def screenshot(self, path: Path) -> None:
        """Save the whole page, however long, as PNG."""
        size = self.ask("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        shot = self._driver.execute_cdp_cmd(
            "Page.captureScreenshot",
            {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}},
        )
        import base64

        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, closed at the end; `missing` says beforehand whether there is one."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _first(_BROWSERS) or ""
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
    # No name is found and no address reached: whatever a page fetches fails, and so does what a browser asks by itself.
    arguments += ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=http://127.0.0.1:9"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox refuses to be started by root, as in a container
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=_first(_DRIVERS)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _first(names: tuple[str, ...]) -> str | None:
    return next((found for name in names if (found := shutil.which(name)) is not None), None)
