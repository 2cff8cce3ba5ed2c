"""The site builds strictly, opens from the disk, and loads nothing from a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

# what a browser fetches by itself; links to other sites are for readers to follow
LOADED = re.compile(
    r"""<(?:script|img|iframe)[^>]*\bsrc="([^"]+)|<link[^>]*rel="?(?:stylesheet|preconnect|icon)[^>]*href="([^"]+)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    expected = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert expected <= {page.stem for page in site.glob("*.html")}
    assert "fold_to_lora" in (site / "api.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        loaded = ["".join(found) for found in LOADED.findall(page.read_text(encoding="utf-8"))]
        assert not [address for address in loaded if re.match("(https?:)?//", address)], page
        if (ROOT / "docs" / f"{page.stem}.md").is_file():
            assert loaded
            assert all((site / address.split("?")[0]).is_file() for address in loaded), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet
