"""JupyterLab as `make lab` starts it, in headless Chromium: a control moved in a notebook changes its figure.

A copy of the repository is served, in which `local-smoke`, the notebooks' default, is a toy recipe with a finished run:
the notebooks themselves are run as they are.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from ranks import free_port, wait_until
from toy_run import RECIPE, finish_seed, toy_corpus

from pgolf_core.lab.record import folder as runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
TOKEN = "token-of-a-test"
PATIENCE = 600.0
"""Seconds that a whole notebook may take on a busy machine."""
PANEL = "Array.from(window.jupyterapp?.shell?.widgets('main') ?? []).find(one => one.sessionContext)"
CELL = f"({PANEL}).content.widgets.find(cell => cell.model.id === 'CELL')"
PICTURE = f"{CELL}?.node.querySelector('.jupyter-widgets img')"
SEEN = f"""(async () => {{
  const picture = {PICTURE};
  if (!picture?.complete || !picture.naturalWidth || getComputedStyle(picture).display === 'none') return '';
  const bytes = await (await fetch(picture.src)).arrayBuffer();
  const hash = await crypto.subtle.digest('SHA-256', bytes);
  return Array.from(new Uint8Array(hash)).map(byte => byte.toString(16).padStart(2, '0')).join('');
}})()"""
ERRORS = f"""({PANEL}).content.widgets
  .flatMap(cell => cell.model.type === 'code' ? cell.model.outputs.toJSON() : [])
  .filter(output => output.output_type === 'error').map(output => output.evalue)"""
SAID = f"({CELL}?.node.querySelector('.jupyter-widgets .widget-html-content')?.innerText ?? '')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of JupyterLab on a copy of the repository, started by the Makefile's own line."""
    if browser.chromium() is None:
        pytest.skip("no Chromium is installed (looked for: " + ", ".join(browser.NAMES) + ")")
    root = tmp_path_factory.mktemp("lab")
    copy, cache = root / "repository", root / "cache"
    for name in ("notebooks", "pgolf_core", "papers"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "pgolf_core" / "recipes" / "local" / "local-smoke.toml").write_text(RECIPE)
    toy_corpus(cache)
    recipe = str(copy / "pgolf_core" / "recipes" / "local" / "local-smoke.toml")
    finish_seed(runs.open_run(recipe, seed=1337, runs_dir=str(copy / "runs"), cache_dir=str(cache)))
    (root / "pgolf").write_text(f"#!/bin/sh\nexec '{sys.executable}' -m pgolf_core.lab.cli \"$@\"\n")
    (root / "pgolf").chmod(0o755)
    for name in ("ready", "ready-lab"):  # the set-up is not what is tested
        (root / name).touch()
    port = free_port()
    further = f"--no-browser --port={port} --IdentityProvider.token={TOKEN} --LabApp.expose_app_in_browser=True"
    places = {name: str(root / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **places, "PYTHONPATH": str(copy), "PGOLF_CACHE": str(cache)}
    made = [f"BIN={root}", f"READY={root / 'ready'}", f"LAB={root / 'ready-lab'}", f"ARGS={further}"]
    command = ["make", "-C", str(copy), "lab", *made]
    address, said = f"http://127.0.0.1:{port}", root / "lab.log"
    with open(said, "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def answers() -> bool:
        assert server.poll() is None, said.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
            return True
        return False

    try:
        wait_until(answers, "an answer of JupyterLab")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@pytest.mark.parametrize(
    ("notebook", "cell", "control", "key"),
    [
        ("02_architecture", "head", ".widget-hslider:nth-of-type(3) [role=slider]", "ArrowRight"),
        ("05_quantize", "rounding", ".widget-hslider [role=slider]", "ArrowRight"),
        ("06_sliding_eval", "windows", ".widget-hslider [role=slider]", "ArrowLeft"),
    ],
)
def test_a_control_moved_in_the_browser_redraws_its_figure(
    lab: str, tmp_path: Path, notebook, cell, control, key
) -> None:
    url = f"{lab}/lab/workspaces/{cell}/tree/notebooks/{notebook}.ipynb?reset&token={TOKEN}"
    with browser.opened(url, tmp_path / "profile") as page:
        page.wait_for(f"({PANEL})?.sessionContext.session?.kernel?.status === 'idle'", PATIENCE, "the kernel")
        page.ask(f"window.jupyterapp.shell.activateById(({PANEL}).id)")
        page.ask("window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => {window.ranAll = true}); 1")
        page.wait_for("window.ranAll", PATIENCE, "the end of the last cell")
        assert page.ask(ERRORS) == []
        page.ask(
            f"(async () => {{const book = ({PANEL}).content;"
            f"const place = book.widgets.findIndex(cell => cell.model.id === '{cell}');"
            "book.activeCellIndex = place; await book.scrollToItem(place, 'center');})()"
        )
        seen, said = (script.replace("CELL", cell) for script in (SEEN, SAID))
        before = page.wait_for(seen, PATIENCE, "the figure under its controls")
        first = page.ask(said)
        page.ask(f"{CELL.replace('CELL', cell)}.node.querySelector('{control}').focus()")
        page.press(key)
        page.wait_for(f"{seen}.then(now => now && now !== '{before}')", 120, "another figure")
        page.wait_for(f"{said} !== {json.dumps(first)}", 120, "another sentence below it")
