"""Says whether generated pages, links and paths of pages, navigation and lock are fresh; ends with 1 if not."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs.generate import FOLDER, pages
from docs.site import lost_links, unlisted_pages

ROOT = Path(__file__).parent.parent
_PATH = re.compile(r"`((?:vitalake|governance|pipelines|models|tests|docs)/[\w/*.-]*)")


def stale_pages() -> list[str]:
    """Return the generated pages that are not what the code says."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    there = {str(path.relative_to(FOLDER)): path.read_text() for path in files}
    made = pages()
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def lost_paths() -> list[str]:
    """Return the files and folders of ours that pages name and that are not there; decisions say what was then."""
    of_a_home = {f"governance/{path.name}" for path in (ROOT / "governance" / "samples").iterdir()}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")]
    return [
        f"{page.relative_to(ROOT)}: {named}"
        for page in sorted(pages)
        if page.name != "CHANGELOG.md"
        for named in sorted(set(_PATH.findall(page.read_text())))
        if not (any(ROOT.glob(named.rstrip("/"))) or named in of_a_home)
    ]


def unlocked() -> list[str]:
    """Return the requirements of pyproject.toml that requirements.lock does not satisfy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    locked = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, equals, version = line.rstrip(" \\").partition("==")
        if equals and not line.startswith((" ", "#")):
            locked[canonicalize_name(name.partition("[")[0])] = version.split(" ")[0]
    missing = []
    for text in wanted:
        requirement = Requirement(text)
        found = locked.get(canonicalize_name(requirement.name))
        if found is None or not requirement.specifier.contains(found):
            missing.append(text)
    return missing


def main() -> int:
    """Print what is stale; return the exit code."""
    stale, missing = stale_pages(), unlocked()
    lost, unlisted = [*lost_paths(), *lost_links()], unlisted_pages()
    for name in stale:
        print(f"docs/reference/{name} is stale: run 'make reference'")  # noqa: T201
    for text in lost:
        print(f"{text} is not there")  # noqa: T201
    for text in unlisted:
        print(f"mkdocs.yml: {text} is a page and not in nav, or the other way round")  # noqa: T201
    for text in missing:
        print(f"requirements.lock does not hold {text}: run 'make lock'")  # noqa: T201
    return 1 if stale or lost or unlisted or missing else 0


if __name__ == "__main__":
    sys.exit(main())
