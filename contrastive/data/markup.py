"""HTML in texts: whether there is some, and what a reader would see of it."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

_BLOCK_NAMES = (
    "address|article|aside|blockquote|body|br|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|"
    "header|hr|html|li|main|nav|ol|p|pre|section|table|tbody|tfoot|thead|title|tr|ul"
)
_OTHER_NAMES = (
    "a|abbr|b|big|button|cite|code|del|em|font|i|iframe|img|input|ins|label|mark|meta|link|option|s|script|select|small|"
    "span|strike|strong|style|sub|sup|td|th|textarea|tt|u|svg|path|o:p"
)
_BLOCK = re.compile(rf"</?(?:{_BLOCK_NAMES})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_BLOCK_NAMES}|{_OTHER_NAMES})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|bull|middot|[mn]dash|[lr]squo|[lr]dquo|hellip|#\d{2,5}|#x[0-9a-f]{2,5});",
    re.IGNORECASE,
)


def has_markup(text: str) -> bool:
    """Whether a text has tags or entities of HTML; what else stands in angle brackets is none.

    Example:
        >>> [has_markup(text) for text in ("<p>Nurse</p>", "R&amp;D", "vector<int>, a < b", "AT&T")]
        [True, True, False, False]
    """
    return ("<" in text and _TAG.search(text) is not None) or ("&" in text and _ENTITY.search(text) is not None)


def strip_markup(text: str) -> str:
    r"""Return what a reader sees of HTML: without tags, entities decoded, a line for each block.

    A text without markup comes back as it is. So does what is in angle brackets and is no tag of HTML.

    Example:
        >>> strip_markup("<p>R&amp;D <b>nurse</b></p><ul><li>nights<li>C++ &lt;vector&gt;</ul>")
        'R&D nurse\nnights\nC++ <vector>'
    """
    if not has_markup(text):
        return text
    if not _TAG.search(text) and _TAG.search(unescaped := html.unescape(text)):  # HTML that was escaped once more
        text = unescaped
    parser = _Seen(lines=not _BLOCK.search(text))
    try:
        parser.feed(text)
        parser.close()
        seen = "".join(parser.parts)
    except AssertionError:  # so html.parser meets some declarations that are none
        seen = html.unescape(_TAG.sub("\n", text))
    lines = (" ".join(line.split()) for line in seen.split("\n"))
    return "\n".join(line for line in lines if line)


def markup_fate(*, stripped: bool) -> str:
    """Say what became of HTML that was found."""
    return "which was taken out" if stripped else "which stays (strip_html=true takes it out)"


class _Seen(HTMLParser):
    """Collects what is seen of HTML; ends of lines count for `lines`, where no tags make them."""

    def __init__(self, *, lines: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._lines = lines
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._hidden = tag in ("script", "style")
        self._part(tag, self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._part(tag, self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False
        self._part(tag, f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._lines else data.replace("\n", " "))

    def _part(self, tag: str, text: str) -> None:
        """Take a tag for the end of a line, for a blank, for nothing, or as it stands if it is none of HTML."""
        if _BLOCK.fullmatch(f"<{tag}>"):
            self.parts.append("\n")
        elif tag in ("td", "th", "img"):
            self.parts.append(" ")
        elif not _TAG.fullmatch(f"<{tag}>"):
            self.parts.append(text)
