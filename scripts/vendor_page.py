#!/usr/bin/env python3
"""Copy the libraries of the page from npm into ``warmboot/page/static/vendor``.

    scripts/vendor_page.py            write them
    scripts/vendor_page.py --check    fail if what is there is something else

Which versions, and with which sums, ``scripts/page/package-lock.json`` says; ``npm ci`` checks them
and runs none of their scripts. The files are the packages' own ES modules, with two changes:
imports by a package's name lead to the file beside it, as a browser knows no names, and the
comment that leads to a source map is left out. Needs ``npm``; nothing else of warmboot does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINNED = ROOT / "scripts" / "page"
VENDOR = ROOT / "src" / "warmboot" / "page" / "static" / "vendor"
INSTALL_TIMEOUT_S = 300
FILES = {
    "preact": ("preact", "dist/preact.mjs"),
    "preact/hooks": ("preact", "hooks/dist/hooks.mjs"),
    "htm": ("htm", "dist/htm.module.js"),
    "@preact/signals-core": ("@preact/signals-core", "dist/signals-core.module.js"),
    "@preact/signals": ("@preact/signals", "dist/signals.module.js"),
}
"""By the name under which it is imported: the package, and the file in it."""


def file_name(imported: str) -> str:
    return imported.removeprefix("@").replace("/", "-") + ".js"


def for_browsers(text: str) -> str:
    """``text`` whose imports lead to files beside it."""

    def beside(match: re.Match[str]) -> str:
        return f'{match[1]}"./{file_name(match[2])}"'

    text = re.sub(r"//# sourceMappingURL=.*\n?", "", text)
    return re.sub(r'(\bfrom\s*|\bimport\s*)"([^".][^"]*)"', beside, text).rstrip() + "\n"


def vendored() -> dict[str, str]:
    """The files as they are to be, by name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PINNED / name, folder)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=folder, check=True, timeout=INSTALL_TIMEOUT_S)
        modules = folder / "node_modules"
        files, licences = {}, []
        for imported, (package, path) in FILES.items():
            files[file_name(imported)] = for_browsers((modules / package / path).read_text())
        for package in sorted({package for package, _ in FILES.values()}):
            told = json.loads((modules / package / "package.json").read_text())
            text = (modules / package / "LICENSE").read_text().strip()
            licences.append(f"{package} {told['version']} ({told['license']})\n\n{text}\n")
        return files | {"LICENSES.txt": f"\n{'-' * 72}\n\n".join(licences)}


def main() -> int:
    files = vendored()
    there = {path.name: path.read_text() for path in VENDOR.iterdir()}
    if "--check" in sys.argv[1:]:
        if there != files:
            print("the page's libraries are not those of npm: run scripts/vendor_page.py")
        return int(there != files)
    for name in there.keys() - files.keys():
        (VENDOR / name).unlink()
    for name, text in files.items():
        (VENDOR / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
