"""Hooks of mkdocs: the site's pages are the repository's, and a page loads nothing from a network."""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/*.png",
    "docs/evidence/*.json",
    "docs/evidence/*.svg",
    "examples/**/*.md",
    "examples/*.ipynb",
)
LOADING = {"src", "href", "data", "poster", "srcset"}
"""Attributes that make a browser load something, except in an <a> and in the relations below."""
RELATIONS = {"canonical", "prev", "next", "edit"}
ADDRESS = re.compile(r"(?:https?:)?//")
STYLE = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]*)""")

log = logging.getLogger("mkdocs.hooks.pages")  # with --strict a warning ends the build


def on_files(files, config):
    """Puts the repository's pages in the place of what lies in docs/, each under its path in the repository."""
    from mkdocs.structure.files import File  # here: the tests read this file without mkdocs

    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in sorted({path for pattern in PAGES for path in ROOT.glob(pattern)}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_post_page(output, page, config):
    for address in loads_of(output):
        log.warning(f"{page.file.src_uri}: the built page loads {address} from a network")


def on_post_build(config):
    for sheet in Path(config.site_dir).rglob("*.css"):
        for address in STYLE.findall(sheet.read_text("utf-8")):
            log.warning(f"{sheet}: loads {address} from a network")


def loads_of(html: str) -> list[str]:
    """Addresses that a browser loads from a network when it opens the page. Links to follow are not among them."""
    parser = _Loads()
    parser.feed(html)
    return parser.found


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "a" or values.get("rel") in RELATIONS:
            return
        self.found += [value for name, value in attrs if name in LOADING and ADDRESS.match(value or "")]
        self.found += STYLE.findall(values.get("style") or "")

    def handle_data(self, data):
        if self.lasttag == "style":
            self.found += STYLE.findall(data)
