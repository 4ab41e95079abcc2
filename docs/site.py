"""Builds the documentation site; ``make docs`` calls it. Says which links lead to nothing.

The site has the pages below ``docs`` and some of the repository's own. They are gathered in one folder first: links
between them lead to where they are there, and a link to a file that is no page becomes text.
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
"""Pages of the repository's root, and what they are called on the site; README is for who looks at the repository."""

_LINK = re.compile(
    r"^```.*?^```$"  # blocks and code show links, and are none
    r"|(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<path>[^()\s#]*)(?P<anchor>#[^()\s]*)?\)"
    r"|`[^`\n]+`",
    re.DOTALL | re.MULTILINE,
)
_ELSEWHERE = re.compile(r"[a-z]+:")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")


def pages() -> dict[Path, str]:
    """Return every page of the site: the file it is made of → its path on the site."""
    inside = {path: str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*.md"))}
    return inside | {ROOT / name: path for name, path in OUTSIDE.items()}


def lost_links() -> list[str]:
    """Return the links of all pages and of README to files that are not there."""
    return [
        f"{page.relative_to(ROOT)}: {link['path']}"
        for page in (*pages(), ROOT / "README.md")
        for link in _links(page.read_text())
        if not (page.parent / link["path"]).exists()
    ]


def unlisted_pages() -> list[str]:
    """Return the pages that the site's navigation does not have, and those that it has and are not there.

    Decisions are reached by their list.
    """
    listed = set(_listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = {path for path in pages().values() if not path.startswith("decisions/")} | {"decisions/index.md"}
    return sorted(listed ^ there)


def gather() -> None:
    """Write all pages, and the files they show, to one folder."""
    shutil.rmtree(GATHERED, ignore_errors=True)
    made = {place: for_the_site(page, page.read_text(), depth=place.count("/")) for page, place in pages().items()}
    made["decisions/index.md"] = _decisions()
    for place, text in made.items():
        (GATHERED / place).parent.mkdir(parents=True, exist_ok=True)
        (GATHERED / place).write_text(text)
    for folder in ("pictures", "reference/schemas"):
        shutil.copytree(DOCS / folder, GATHERED / folder)


def build() -> int:
    """Build the site; return the exit code, which is not 0 if there was a warning."""
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
    """Yield what leads to a file."""
    for link in _LINK.finditer(text):
        if link["path"] and not _ELSEWHERE.match(link["path"]):
            yield link


def _listed(nav: Any) -> Iterator[str]:
    for entry in nav:
        for item in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _listed(item) if isinstance(item, list) else [item]


def for_the_site(page: Path, text: str, *, depth: int) -> str:
    """Return a page as it is gathered.

    Args:
        page: where it lies in the repository: its links lead from there.
        text: of it.
        depth: folders that it lies in on the site.
    """
    places = pages()

    def led(link: re.Match[str]) -> str:
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

    return as_markdown(_LINK.sub(led, text))


def as_markdown(text: str) -> str:
    """Return a page as Python-Markdown reads it.

    It wants four blanks before what belongs to an item of a list, an empty line behind an item that has several
    paragraphs, and one word behind the beginning of a block.
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
        "# Decisions\n\nWhat was hard to choose, why it was chosen so, and what it costs. A decision says what was so "
        "when it was made.\n\n| | |\n| --- | --- |\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    sys.exit(build())
