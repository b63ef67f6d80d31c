"""The lab, computed and driven in a real browser."""

import contextlib
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

from firstlight.errors import FirstlightError
from firstlight.experiments import laboratory as lab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.parametrize(
    "settings",
    [
        lab.Settings(6, 256),
        lab.Settings(6, 256, "relu", "kaiming"),
        lab.Settings(6, 256, "relu", "xavier", batch_norm=True),
        lab.Settings(5, 256, "gelu", "kaiming", 0.5, residual=True),
        lab.Settings(6, 256, "silu", "orthogonal"),
    ],
    ids=str,
)
def test_prediction_and_measurement_agree(settings):
    for predicted, measured in lab.measure(settings).stds:
        assert measured == pytest.approx(predicted, rel=0.25)


def test_the_scale_multiplies_the_weights_of_the_scheme():
    once, twice = (lab.start(lab.Settings(3, 64, scale=s)) for s in (1.0, 2.0))
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        assert torch.equal(a * (2 if a.dim() == 2 else 1), b)


def test_a_good_start_learns_and_zeros_do_not():
    assert lab.trained(lab.Settings(3, 64, "relu", "kaiming"), steps=100).final < 0.5
    assert lab.trained(lab.Settings(3, 64, "relu", "zeros"), steps=100).final > 0.95 * math.log(10)


def test_bad_settings_say_so():
    for build in (lambda: lab.Settings(depth=0), lambda: lab.Settings(width=5000), lambda: lab.parse_scale("big"),
                  lambda: lab.parse_scale("-1"), lambda: lab.parse_scale("inf")):  # fmt: skip
        with pytest.raises(FirstlightError) as error:
            build()
        assert error.value.slug == "bad-setting"


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "firstlight", "lab", "--no-browser", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    # One thread: the tests beside this one have the other cores.
    server = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **quiet)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
                break
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser(address):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        elsewhere = []
        page.on("request", lambda request: elsewhere.append(request.url) if address not in request.url else None)
        page.goto(address)
        wait = 180_000
        page.wait_for_selector("text=Last layer", timeout=wait)

        def shows(settings):
            predicted, measured = lab.measure(settings).stds[-1]
            text = f"predicted {predicted:.3g}, measured {measured:.3g}"
            page.get_by_text(re.compile(re.escape(text))).wait_for(timeout=wait)
            page.locator(f"svg text.label:has-text('layer {settings.depth}')").first.wait_for(timeout=wait)

        shows(lab.Settings())
        page.get_by_role("slider").first.press("ArrowRight")
        shows(lab.Settings(depth=11))
        field = page.get_by_role("textbox").first
        field.fill("large")
        field.press("Enter")
        page.get_by_text("is no factor").wait_for(timeout=wait)
        field.fill("1")
        field.press("Enter")
        shows(lab.Settings(depth=11))
        page.get_by_role("button", name="Train 200 steps").click()
        page.get_by_text("Final loss").first.wait_for(timeout=wait)
        browser.close()
    assert not [url for url in elsewhere if not url.startswith(("data:", "blob:"))]
