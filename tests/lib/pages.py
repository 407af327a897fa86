"""Pages that we write, taken apart for tests."""

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "path", "rect", "circle"}


class Page(HTMLParser):
    """Checks that tags close in order; gathers text, scripts and all that could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.scripts = 0
        self.loads: list[tuple[str, str | None]] = []
        self.handlers: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [(name, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "foreignobject")

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


HOSTILE = "<script>alert(1)</script> ' \" & \0 \x1b[2J \ud800 \u202e <img src=x onerror=alert(1)> ]]> -->"
"""Text that a page must escape."""
