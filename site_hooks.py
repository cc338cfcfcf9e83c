"""Hooks of the site: pages from outside of docs/ join it, and links between both keep their ends.

In the repository a page links to another one by its path there. On the site, `docs/` is the root, and the pages of
`OUTSIDE` keep their paths from the root of the repository. A link to any other file of the repository becomes its text,
as the site has no such page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "studies/**/README.md", "studies/**/*.svg", "tests/real/README.md")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    name = page.file.src_uri
    place = f"docs/{name}" if (ROOT / "docs" / name).exists() else name  # in the repository

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found["target"].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), path)).removeprefix("docs/")
        if target == "README.md":  # the site's first page, which has other headings
            target, hash_, anchor = "index.md", "", ""
        if files.get_file_from_path(target) is None:
            return found["text"]
        relative = posixpath.relpath(target, posixpath.dirname(name) or ".")
        return f"{found['image']}[{found['text']}]({relative}{hash_}{anchor})"

    parts = FENCED.split(markdown)  # every second one is code
    return "".join(part if index % 2 else LINK.sub(link, part) for index, part in enumerate(parts))
