"""What of the web page can be wrong without a browser, in node: `page_logic.test.mjs`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from warmboot.model.container import ContainerState
from warmboot.model.tenants.engine import EngineState
from warmboot.model.worker import WorkerState

TESTS = Path(__file__).with_name("page_logic.test.mjs")
TIMEOUT_S = 120


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_words_pictures_lists_and_buttons_of_the_page() -> None:
    states = {
        "container": list(ContainerState),
        "engine": list(EngineState),
        "worker": list(WorkerState),
    }
    ran = subprocess.run(
        ("node", "--test", str(TESTS)),
        env=os.environ | {"WARMBOOT_STATES": json.dumps(states)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
