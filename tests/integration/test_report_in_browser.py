"""The report opened in headless Chromium: no error, no request, all sections laid out."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.finished_run import whole_run

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    whole_run(root)
    return root / "report.html"


def chromium(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    # Every request that is not to a file would have to ask this proxy, which does not exist.
    proxy = ("--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=<-loopback>")
    command = [CHROMIUM, *FLAGS, *proxy, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_it_loads_without_console_messages_and_requests(page: Path) -> None:
    log = page.parent / "net.json"
    done = chromium(page, "--dump-dom", f"--log-net-log={log}")
    assert "CONSOLE" not in done.stderr
    for section in ("accuracy", "episode", "patches", "masks", "training", "reproduce", "manifest"):
        assert f'<section id="{section}">' in done.stdout
    requested = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    own = {url for url in requested if not re.search(r"google|gstatic|chrome", url)}
    assert own == set()


@pytest.mark.parametrize("width", [1280, 500])  # Chromium's narrowest window is 500
def test_nothing_is_wider_than_the_window(page: Path, width: int) -> None:
    picture = page.parent / f"{width}.png"
    chromium(page, f"--screenshot={picture}", f"--window-size={width},3000")
    with Image.open(picture) as image:
        assert image.width == width
        edge = image.convert("RGB").crop((width - 4, 0, width, 3000))
        assert edge.getcolors() is not None
        assert len(edge.getcolors() or []) == 1  # only paper reaches the right edge
