"""A study's report and its optuna-dashboard opened in headless Chromium."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

import pytest
from PIL import Image

from data_shards.location import Location
from pipelines.compare import compare
from pipelines.compare.files import write
from tests.evaluated_run import EvaluatedRun
from tests.integration.test_report_in_browser import CHROMIUM, FLAGS, chromium
from tests.unit.tuning.example_study import stored_example
from tuning.dashboard import make_dashboard
from tuning.report.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timeout(300),
]
HEIGHT = 9000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    config = stored_example(root / "study")
    settings = {"tasks": 60, "shots": [1], "split": "val", "seed": 1}
    EvaluatedRun(root / "run", {"trial_0035": 0.86, "trial_0032": 0.8}, settings=settings).write()
    for suffix in ("json", "md", "html", "png"):
        write(compare([root / "run"]), config.root / f"finalists.{suffix}")
    (config.root / "best.yaml").write_text("# Best of the study\nstages: {}\n")
    place = write_report(config.root).local
    assert place is not None
    return place


def test_the_report_loads_without_console_messages_and_requests(page: Path) -> None:
    log = page.parent / "net.json"
    done = chromium(page, "--dump-dom", f"--log-net-log={log}")
    assert "CONSOLE" not in done.stderr
    for section in ("best", "finalists", "history", "recipes", "curves", "importance", "parallel",
                    "slices", "lost", "cost", "trials", "study"):  # fmt: skip
        assert f'<section id="{section}">' in done.stdout
    requested = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    assert {url for url in requested if not re.search(r"google|gstatic|chrome", url)} == set()


@pytest.mark.parametrize("width", [1280, 500])  # Chromium's narrowest window is 500
def test_nothing_of_the_report_is_wider_than_the_window(page: Path, width: int) -> None:
    picture = page.parent / f"{width}.png"
    chromium(page, f"--screenshot={picture}", f"--window-size={width},{HEIGHT}")
    with Image.open(picture) as image:
        assert image.width == width
        edge = image.convert("RGB").crop((width - 4, 0, width, HEIGHT))
        assert len(edge.getcolors(maxcolors=10_000) or []) == 1  # only paper reaches the edge


def test_charts_are_drawn_in_the_colours_of_dark_pages_too(page: Path) -> None:
    picture = page.parent / "dark.png"
    chromium(
        page, "--blink-settings=preferredColorScheme=0", f"--screenshot={picture}",
        "--window-size=1280,3000",
    )  # fmt: skip
    with Image.open(picture) as image:
        light = sum(image.convert("L").histogram()[200:])
    assert light < 0.1 * 1280 * 3000  # letters and lines, no white boxes


def test_the_dashboard_shows_the_study(page: Path) -> None:
    assert CHROMIUM is not None
    with make_dashboard(Location.parse(page.parent), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/dashboard/studies/0"
        profile = f"--user-data-dir={page.parent / 'profile'}"
        command = [CHROMIUM, *FLAGS, profile, "--virtual-time-budget=20000", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        server.shutdown()
        thread.join()
    assert "example (id=0)" in done.stdout
    assert "Best Trial (number=35)" in done.stdout
    assert "smkd.method.crops.quarter_turns" in done.stdout
