"""What of the web page can be wrong without a browser, in node: `page_logic.test.mjs`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("page_logic.test.mjs")
TIMEOUT_S = 120


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_words_pictures_and_lists_of_the_page() -> None:
    ran = subprocess.run(
        ("node", "--test", str(TESTS)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
