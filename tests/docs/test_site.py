"""What the site's build (.ci/site) would refuse, as far as it can be told without mkdocs."""

import importlib.util
import re

import pytest
import yaml
from cli import ROOT

SITE = ROOT / "docs" / "site"


def load_hooks():
    spec = importlib.util.spec_from_file_location("site_pages", SITE / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


def targets(nav) -> list[str]:
    """The pages of a navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in nav for page in targets(next(iter(part.values())) if isinstance(part, dict) else part)]


def test_the_navigation_has_every_page_once():
    pages = {path.relative_to(ROOT).as_posix() for pattern in hooks.PAGES for path in ROOT.glob(pattern)}
    pages = {page for page in pages if page.endswith(".md") and not re.match("examples/.+/", page)}
    nav = targets(yaml.safe_load((SITE / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert sorted(nav) == sorted(pages)


def test_every_file_that_a_page_links_to_is_part_of_the_site():
    """mkdocs refuses a link to a file that the site does not have; a page's links are relative to the page."""
    files = {path.resolve() for pattern in hooks.PAGES for path in ROOT.glob(pattern)}
    lost = [
        (page.name, link)
        for page in files
        if page.suffix == ".md"
        for link in re.findall(
            r"\]\(([^)#\s]+)", re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
        )
        if "://" not in link and (page.parent / link).is_file() and (page.parent / link).resolve() not in files
    ]
    assert lost == []


@pytest.mark.parametrize(
    ("html", "loaded"),
    [
        ('<script src="https://a.org/x.js"></script>', ["https://a.org/x.js"]),
        ('<link rel="stylesheet" href="//a.org/x.css">', ["//a.org/x.css"]),
        ('<link rel="preconnect" href="https://a.org" crossorigin>', ["https://a.org"]),
        ('<p><img src="http://a.org/x.png"></p>', ["http://a.org/x.png"]),
        ('<p style="background: url(https://a.org/x.png)">', ["https://a.org/x.png"]),
        ('<style>@import "https://a.org/x.css"; a { src: url(x.woff) }</style>', ["https://a.org/x.css"]),
        ('<a href="https://a.org">to follow</a><link rel="canonical" href="https://a.org">', []),
        ('<script src="../assets/x.js"></script><p>url(https://a.org) in a sentence</p>', []),
    ],
)
def test_what_a_page_loads_from_a_network_is_found(html, loaded):
    assert hooks.loads_of(html) == loaded


@pytest.mark.parametrize("pattern", [pattern for pattern in hooks.PAGES if pattern.endswith(".md")])
def test_lists_begin_after_an_empty_line(pattern):
    """Where a repository's viewer shows a list, mkdocs would go on with the paragraph."""
    glued = re.compile(r"^(?![-*] |[#|\s]|\d+\. |```).+\n(?:[-*]|\d+\.) .*", re.MULTILINE)
    for page in ROOT.glob(pattern):
        text = re.sub(r"^```\w*\n.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert not glued.findall(text), page
