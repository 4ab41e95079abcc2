"""Builds the documentation site, and finds broken links; ``make docs`` calls it.

The site has the pages below ``docs`` and some pages of the repository's root. They are first copied into one folder:
links between pages are changed to fit, and a link to a file that is not a page becomes text.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GATHERED = ROOT / "build" / "pages"
"""``docs_dir`` of ``mkdocs.yml``."""

OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "GLOSSARY.md": "glossary.md"}
"""Pages of the repository's root, and their names on the site. README is not among them: it is for the repository."""

_LINK = re.compile(
    r"^```.*?^```$"  # what looks like a link in a block or in code is not one
    r"|(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<path>[^()\s#]*)(?P<anchor>#[^()\s]*)?\)"
    r"|`[^`\n]+`",
    re.DOTALL | re.MULTILINE,
)
_ELSEWHERE = re.compile(r"[a-z]+:")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")


def pages() -> dict[Path, str]:
    """Return every page of the site: its file → its path on the site."""
    inside = {path: str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*.md"))}
    return inside | {ROOT / name: path for name, path in OUTSIDE.items()}


def missing_links() -> list[str]:
    """Return the links of all pages and of README to files that do not exist."""
    return [
        f"{page.relative_to(ROOT)}: {link['path']}"
        for page in (*pages(), ROOT / "README.md")
        for link in _links(page.read_text())
        if not (page.parent / link["path"]).exists()
    ]


def unlisted_pages() -> list[str]:
    """Return the pages that are not in the site's navigation, and its entries that are not pages.

    Decisions are not in the navigation: a list links to them.
    """
    listed = set(_listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = {path for path in pages().values() if not path.startswith("decisions/")} | {"decisions/index.md"}
    return sorted(listed ^ there)


def gather() -> None:
    """Write all pages, and the pictures and schemas that they link to, into one folder."""
    shutil.rmtree(GATHERED, ignore_errors=True)
    made = {place: for_the_site(page, page.read_text(), depth=place.count("/")) for page, place in pages().items()}
    made["decisions/index.md"] = _decisions()
    for place, text in made.items():
        (GATHERED / place).parent.mkdir(parents=True, exist_ok=True)
        (GATHERED / place).write_text(text)
    for folder in ("pictures", "reference/schemas"):
        shutil.copytree(DOCS / folder, GATHERED / folder)


def build() -> int:
    """Build the site; return the exit code, which is not 0 after a warning."""
    gather()
    command = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--clean",
        "--strict",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(_COLOUR.sub("", done.stdout + done.stderr.partition("Traceback")[0]))  # noqa: T201
    return done.returncode


def _links(text: str) -> Iterator[re.Match[str]]:
    """Yield the links to files, without those to other sites."""
    for link in _LINK.finditer(text):
        if link["path"] and not _ELSEWHERE.match(link["path"]):
            yield link


def _listed(nav: Any) -> Iterator[str]:
    for entry in nav:
        for item in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _listed(item) if isinstance(item, list) else [item]


def for_the_site(page: Path, text: str, *, depth: int) -> str:
    """Return the text of a page for the site, with its links changed to fit.

    Args:
        page: its file in the repository, where its relative links start.
        text: its text.
        depth: number of folders that it is in on the site.
    """
    places = pages()

    def relinked(link: re.Match[str]) -> str:
        if not link["path"] or _ELSEWHERE.match(link["path"]):
            return link[0]
        target = (page.parent / link["path"]).resolve()
        if target == DOCS / "decisions":
            place = "decisions/index.md"
        elif target == ROOT / "README.md":
            place = "index.md"
        elif target in places:
            place = places[target]
        elif target.is_relative_to(DOCS) and target.suffix in (".png", ".svg", ".json"):
            place = str(target.relative_to(DOCS))
        else:
            return str(link["text"])
        return f"{link['image']}[{link['text']}]({'../' * depth}{place}{link['anchor'] or ''})"

    return as_markdown(_LINK.sub(relinked, text))


def as_markdown(text: str) -> str:
    """Return the text of a page in the form that Python-Markdown needs.

    It needs four blanks before the content of a list item, an empty line after an item with several paragraphs, and
    only one word after the beginning of a code block.
    """
    lines: list[str] = []
    within, fenced, several = 0, False, False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced, line = not fenced, re.sub(r"^(```\w+) .*", r"\1", line)
        if not fenced and line.strip() and not line.startswith(" "):
            item = _ITEM.match(line)
            if item and several and lines[-1]:
                lines.append("")
            within, several = len(item[0]) if item else 0, False
        indented = within and not fenced and line.startswith(" " * within)
        several = several or bool(indented and not lines[-1])
        lines.append(" " * (4 - within) + line if indented else line)
    return "\n".join(lines) + "\n"


def _decisions() -> str:
    """Return the list of all decisions, the newest first."""
    lines = []
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md"), reverse=True):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"| {path.name[:4]} | [{re.sub(r'^[0-9]+[.:] ', '', title)}]({path.name}) |")
    return (
        "# Decisions\n\nDecisions that were hard, with their reasons and costs. Each describes the state at the time "
        "when it was made.\n\n| | |\n| --- | --- |\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    sys.exit(build())
