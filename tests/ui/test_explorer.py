"""Notebook 02 in JupyterLab in a real browser, its explorer used with the keyboard (make test-ui).

Writes a screenshot to runs/ui/explorer.png.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from mcpkg import MAGICAPTURE, Sampling
from mcpkg.course import open_course
from mcpkg.metrics import record_attention

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = "02_attention_maps.ipynb"
SCREENSHOT = ROOT / "runs" / "ui" / "explorer.png"
MS = 1000
RUN_S = 900  # where nothing was trained yet
QUIET = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on a copy of the notebook; the address to open."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, home)
    settings = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # else cells out of sight are not in the page
    page_config = home / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
    with (home / "lab.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
             f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home}"],
            env=os.environ | {name: str(home / folder) for name, folder in folders.items()},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (home / "lab.log").read_text()
                time.sleep(0.5)
        yield f"{address}/lab/tree/{NOTEBOOK}?token={token}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def page(server):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.exit("test-ui needs chromium. Install it: apt-get install chromium, or as your system does.", 1)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=QUIET)
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(server)
        page.locator(".jp-Notebook").wait_for(timeout=120 * MS)
        yield page
        chromium.close()


@pytest.fixture(scope="module")
def trace():
    """What the notebook records, measured here as well."""
    course = open_course("mini")
    adapter = course.train(course.method(MAGICAPTURE), course.source("amara"), course.reference("kimono"))
    return record_attention(course.backend, adapter, sampling=Sampling(seed=0))


def explorer_cell(page: Page):
    return page.locator(".jp-CodeCell").filter(has_text="explore_attention(traces)")


def reading(page: Page) -> str:
    return page.locator(".mcpkg-reading").inner_text()


def wait_for_leakage(page: Page, leakage: float) -> None:
    expect(page.locator(".mcpkg-reading")).to_have_text(
        re.compile(f"^leakage of <v1>: {leakage:.2f} "), timeout=20 * MS
    )


def focused_label(page: Page) -> str:
    """Label of the control that has the focus."""
    return page.evaluate(
        "() => document.activeElement.closest('.jupyter-widgets')?.innerText.replace('\\u200b', '').trim()"
        ".split('\\n')[0] ?? ''"
    )


def test_a_stored_notebook_shows_the_picture(page):
    expect(explorer_cell(page).locator("img")).to_have_count(1, timeout=60 * MS)
    assert page.locator(".jupyter-widgets").count() == 0


def test_it_runs_and_the_widget_takes_the_place_of_the_picture(page, trace):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".mcpkg-reading").wait_for(timeout=RUN_S * MS)
    expect(page.locator(".jp-CodeCell").last.locator(".jp-OutputArea-output")).to_contain_text(
        "not answered yet", timeout=RUN_S * MS
    )
    wait_for_leakage(page, trace.leakage("<v1>"))
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").filter(has_text="Error").count() == 0
    picture = explorer_cell(page).locator("img")
    assert picture.count() == 1 and picture.get_attribute("alt") == reading(page)


def test_every_control_is_reached_by_tab(page):
    explorer_cell(page).locator("select").first.focus()
    labels = [focused_label(page)]
    for _ in range(10):  # a slider's number and the buttons of "play" have the focus in between
        page.keyboard.press("Tab")
        labels.append(focused_label(page))
    found = list(dict.fromkeys(filter(None, labels)))
    assert found == ["method", "word", "layer", "head", "timestep", "draw the edge of the word's own region"]


def test_arrow_keys_move_the_sliders_and_the_leakage_follows(page, trace):
    widget = explorer_cell(page)

    def press(label: str, key: str) -> None:
        widget.locator(".widget-inline-hbox").filter(has_text=label).locator(".noUi-handle").focus()
        page.keyboard.press(key)

    press("timestep", "ArrowRight")
    wait_for_leakage(page, trace.leakage("<v1>", timestep=trace.timesteps[0]))
    press("timestep", "End")
    last = trace.timesteps[-1]
    wait_for_leakage(page, trace.leakage("<v1>", timestep=last))
    press("head", "ArrowRight")
    wait_for_leakage(page, trace.leakage("<v1>", head=0, timestep=last))
    widget.locator("select").nth(2).select_option(index=2)  # a layer of another grid
    wait_for_leakage(page, trace.leakage("<v1>", layer=trace.layers[1], head=0, timestep=last))
    expect(widget.locator("img")).to_have_attribute("alt", reading(page))  # the picture follows the line
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    widget.screenshot(path=SCREENSHOT)
    values = {trace.leakage("<v1>"), trace.leakage("<v1>", layer=trace.layers[1], head=0, timestep=last)}
    assert max(values) - min(values) > 0.05  # what was read did change
