"""The page of a report in a real browser: nothing is cut, nothing overlaps, nothing is asked of a network.

Screenshots are left in build/pages. Needs Debian's chromium and chromium-driver, and selenium.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.reports import KINDS, sample_report

from headrace.experiments.page import page

webdriver: Final = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM: Final = Path("/usr/bin/chromium")
DRIVER: Final = Path("/usr/bin/chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM.exists() and DRIVER.exists()), reason="chromium or its driver is not installed"),
]
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
MISPLACED: Final = """
const found = [];
for (const svg of document.querySelectorAll('svg.chart')) {
  const frame = svg.getBoundingClientRect();
  if (!frame.width) continue;  // the other width's
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  for (const [text, b] of boxes)
    if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 1 || b.bottom > frame.bottom + 1)
      found.push(svg.getAttribute('class') + ': outside: ' + text);
  boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    if (a.left < b.right && b.left < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom)
      found.push(svg.getAttribute('class') + ': overlap: ' + one + ' and ' + other);
  }));
}
return found;
"""
CUT: Final = """
const wide = document.documentElement.clientWidth;
const beyond = e => !e.closest('.scroll, svg') && e.getBoundingClientRect().right > wide + 1;
return [...document.querySelectorAll('main *')].filter(beyond)
  .map(e => e.tagName + ': ' + e.textContent.slice(0, 60));
"""
CONTRAST: Final = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const light = colour => {
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = light(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll('main *')].filter(e => !['title', 'desc'].includes(e.tagName) &&
  [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => {
    const style = getComputedStyle(e), ink = light(e.closest('svg') ? style.fill : style.color);
    return [(Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05), e.tagName + '.' + e.getAttribute('class')];
  }).filter(([ratio, _]) => ratio < 4.5);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for kind in KINDS:
        (folder / f"{kind}.html").write_text(page(sample_report(kind)), "utf-8")
    return folder


def look(browser: Any, address: str, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)


def keep(browser: Any, path: Path) -> None:
    """The whole page as a picture, for whoever wants to see it."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(shot["data"]))


def asked_for(browser: Any, address: str) -> list[str]:
    """Every address that the page asked for since the last look; the browser's own start page asks as well."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [each["request"]["url"] for each in sent if each["documentURL"] == address]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 700, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_whole_legible_and_asks_nobody(
    browser: Any, pages: Path, root: Path, kind: str, width: int, scheme: str
) -> None:
    address = (pages / f"{kind}.html").as_uri()
    browser.get_log("performance")
    look(browser, address, width, scheme)
    keep(browser, root / "build" / "pages" / f"{kind}-{width}-{scheme}.png")

    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.execute_script(MISPLACED) == []
    assert browser.execute_script(CUT) == []
    assert browser.execute_script(CONTRAST) == []
    assert browser.get_log("browser") == []
    assert [url for url in asked_for(browser, address) if not url.startswith("data:")] == [address]


def test_a_hostile_name_runs_nothing_and_spoils_no_layout(browser: Any, tmp_path: Path) -> None:
    report = sample_report("failing")
    hostile = "</title></style><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
    report.experiment.id = report.experiment.challenger = report.experiment.model = hostile
    report.experiment.moves[0].why = report.gates[0].remark = report.worst[0].trace_id = hostile
    report.figures.segments[0].value = "W" * 300
    path = tmp_path / "hostile.html"
    path.write_text(page(report), "utf-8")

    look(browser, path.as_uri(), 420, "light")

    assert browser.title.startswith("</title></style><script>")
    assert browser.execute_script("return document.scripts.length + document.images.length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.get_log("browser") == []


def test_a_page_in_print_is_light_and_has_no_scroll_box(browser: Any, pages: Path) -> None:
    look(browser, (pages / "canary.html").as_uri(), 794, "dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})

    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    overflow = browser.execute_script("return getComputedStyle(document.querySelector('.scroll')).overflowX")

    assert (ground, overflow) == ("rgb(255, 255, 255)", "visible")
