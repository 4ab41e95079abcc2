"""Checks that generated pages and the lock are fresh, and that links and paths exist; exits with 1 if not."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs.generate import FOLDER, pages
from docs.site import missing_links, unlisted_pages

ROOT = Path(__file__).parent.parent
_PATH = re.compile(r"`((?:vitalake|governance|pipelines|models|tests|docs)/[\w/*.-]*)")


def stale_pages() -> list[str]:
    """Return the generated pages that differ from what the code generates now."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    written = {str(path.relative_to(FOLDER)): path.read_text() for path in files}
    generated = pages()
    return sorted(name for name in generated.keys() | written.keys() if generated.get(name) != written.get(name))


def missing_paths() -> list[str]:
    """Return the files and folders of the repository that pages name and that do not exist.

    Decisions and the changelog are not checked: they describe earlier states.
    """
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
    requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra in project["project"]["optional-dependencies"].values():
        requirements += extra
    locked = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, equals, version = line.rstrip(" \\").partition("==")
        if equals and not line.startswith((" ", "#")):
            locked[canonicalize_name(name.partition("[")[0])] = version.split(" ")[0]
    missing = []
    for text in requirements:
        requirement = Requirement(text)
        found = locked.get(canonicalize_name(requirement.name))
        if found is None or not requirement.specifier.contains(found):
            missing.append(text)
    return missing


def main() -> int:
    """Print every problem and how to fix it; return the exit code."""
    stale, missing = stale_pages(), unlocked()
    lost, unlisted = [*missing_paths(), *missing_links()], unlisted_pages()
    for name in stale:
        print(f"docs/reference/{name} is stale: run 'make reference'")  # noqa: T201
    for text in lost:
        print(f"{text} does not exist: correct the path")  # noqa: T201
    for text in unlisted:
        print(f"mkdocs.yml: {text} is a page but not in nav, or in nav but not a page")  # noqa: T201
    for text in missing:
        print(f"requirements.lock does not satisfy {text}: run 'make lock'")  # noqa: T201
    return 1 if stale or lost or unlisted or missing else 0


if __name__ == "__main__":
    sys.exit(main())
