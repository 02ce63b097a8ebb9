"""What people see: MLflow's own page of a small store, in a real browser.

The browser is Debian's Chromium (packages chromium and chromium-driver), which `.ci/run` installs.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from laser.config.schema import TrackingConfig
from laser.pages.document import as_html
from laser.pages.sweep import sweep_page
from laser.serving.registration import CHAMPION
from laser.tracking.models import give_alias, register
from laser.tracking.run import Run
from laser.tracking.runs import Tracking, open_tracking
from laser.tracking.store import client
from laser.tracking.sweeps import read_trials
from tiny.store import record_small_sweep

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs Debian's packages chromium and chromium-driver"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1600,1200"
).split()
PATIENCE = 120.0
"""Seconds: a first page took 40 s on a busy machine."""


@dataclass(frozen=True)
class Shown:
    """A store with a sweep, and the server that shows it."""

    tracking: Tracking
    parent: Run
    trials: list[Run]
    server: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    tracking = open_tracking(TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}"))
    parent, trials = record_small_sweep(tracking, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking.uri, "--port", str(port)]
    with (folder / "ui.log").open("w") as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--workers", "1"], stdout=log, stderr=log)
    try:
        eventually(lambda: urllib.request.urlopen(f"{server}/health", timeout=5).status == 200)
        yield Shown(tracking, parent, trials, server)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds; what it raises meanwhile does not count."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if holds():
                return
        except Exception:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "it does not hold after all this time"
        time.sleep(0.3)


def text_of(browser) -> str:
    return browser.find_element("tag name", "body").text


def columns(browser) -> list[str]:
    """Which of our columns the table of runs shows, from the left: the page's text has them as they were drawn."""
    ours = ("K", "L", "best/ndcg_at_10", "best/mrr", "loss")
    cells = {name: browser.find_elements("xpath", f"//*[text()='{name}']") for name in ours}
    row = cells["K"][0].location["y"]
    places = {cell.location["x"]: name for name in ours for cell in cells[name] if abs(cell.location["y"] - row) < 10}
    return [places[x] for x in sorted(places)]


def test_the_address_opens_on_the_runs_the_best_first(shown: Shown, browser):
    browser.get(shown.tracking.address(shown.server))
    eventually(lambda: "5 matching runs" in text_of(browser))
    page = text_of(browser)
    names = [line for line in page.splitlines() if line.startswith("K=") or line == "quickstart"]
    assert names[:5] in (
        ["K=8 L=32", "quickstart", "K=8 L=16", "K=4 L=32", "K=4 L=16"],
        ["quickstart", "K=8 L=32", "K=8 L=16", "K=4 L=32", "K=4 L=16"],  # a sweep has its best trial's figures
    )
    assert "ml-100k" in page and "GenAI" in page
    eventually(lambda: columns(browser)[:3] == ["K", "L", "best/ndcg_at_10"])  # the page draws them one by one


def test_charts_show_k_l_and_quality(shown: Shown, browser):
    browser.get(f"{shown.tracking.address(shown.server)}&compareRunsMode=CHART")
    eventually(lambda: "Parallel Coordinates" in text_of(browser) and "seconds vs. best" in text_of(browser))
    page = text_of(browser)
    assert page.index("mforme...xperts") < page.index("mforme...tokens") < page.index("seconds vs. best/ndcg_at_10")


def test_two_trials_compare_by_k_l_and_ndcg(shown: Shown, browser):
    runs = quote(json.dumps([trial.run_id for trial in (shown.trials[0], shown.trials[3])]))
    browser.get(f"{shown.server}/#/compare-runs?runs={runs}&experiments={quote(json.dumps(['1']))}")
    eventually(lambda: "Parallel Coordinates Plot" in text_of(browser) and "val/ndcg_at_10" in text_of(browser))
    plot = text_of(browser).partition("Run details")[0]
    for name in ("mformer.num_experts", "mformer.num_virtual_tokens", "val/ndcg_at_10"):
        assert name in plot
    assert "recall" not in plot


def test_a_run_says_what_it_is_and_shows_its_figures(shown: Shown, browser):
    run = f"{shown.server}/#/experiments/1/runs/{shown.trials[3].run_id}"
    browser.get(f"{run}?workflowType=machine_learning")
    eventually(lambda: "Reached: NDCG@10" in text_of(browser))
    page = text_of(browser)
    assert "Laser with K = 8 experts and L = 32 virtual tokens" in page and "ml-100k (a1b2c3d4e5f6" in page
    figures(browser, run, ["curves", "expert-load", "ranks"])


def test_a_sweep_shows_its_heat_map(shown: Shown, browser):
    figures(browser, f"{shown.server}/#/experiments/1/runs/{shown.parent.run_id}", ["K-by-L", "quality-by-cost"])


def test_the_registry_shows_the_champion(shown: Shown, browser):
    best, store = shown.trials[3], client(shown.tracking.uri)
    model = store.create_logged_model("1", "package", best.run_id, model_type="recommender")
    store.finalize_logged_model(model.model_id, "READY")
    version = register(shown.tracking.uri, "laser", model.model_id, best.run_id, {"val/ndcg_at_10": "0.0432"})
    give_alias(shown.tracking.uri, version, CHAMPION)
    browser.get(f"{shown.server}/#/models/laser?workflowType=machine_learning")
    eventually(lambda: "champion" in text_of(browser) and "Version 1" in text_of(browser))


@pytest.mark.parametrize(("width", "media"), [(390, "screen"), (700, "print")])
def test_the_page_of_a_sweep_fits_a_phone_and_paper(shown: Shown, browser, tmp_path, width, media):
    page = tmp_path / "page.html"
    page.write_text(
        as_html("A sweep", sweep_page("quickstart", "0123456789abcdef" * 4, read_trials(shown.tracking, shown.parent)))
    )
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        # A figure is seen whole, without scrolling, and its words are no smaller than 8 points.
        right = "Math.max(...[...document.querySelectorAll('svg')].map(each => each.getBoundingClientRect().right))"
        words = (
            "Math.min(...[...document.querySelectorAll('svg text')].map(each => each.getBoundingClientRect().height))"
        )
        assert browser.execute_script(f"return {right}") <= width
        assert browser.execute_script(f"return {words}") >= 9.0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def figures(browser, run: str, names: list[str]) -> None:
    """Check that the browser draws each of the run's figures."""
    for name in names:
        browser.get(f"{run}/artifacts/figures/{name}.svg?workflowType=machine_learning")
        browser.refresh()

        eventually(lambda name=name: f"figures/{name}.svg" in text_of(browser) and drawings(browser) == 1)


def drawings(browser) -> int:
    """Count the large pictures on the page that MLflow has loaded; it holds one twice, to zoom in."""
    script = "return [...document.images].filter(image => image.naturalWidth > 200).map(image => image.src)"
    return len(set(browser.execute_script(script)))
