"""Text of other people is shown as it is: as text, as code in a line, as a block of code."""

import pytest
from markdown_it import MarkdownIt

from experiments.model_card.markdown import Markdown, block, code, shown, string

TEXTS = (
    "a_b__c _d_ __e__ *f* ~~g~~",
    "<b>h</b> &amp; &#35; <!-- i --> <j@k.org>",
    "[l](m) ![n](o) [p]: q",
    "\\r \\` `s` ``t`` u` v\\",
    "# w #",
    "https://x.org www.y.org z@w.org",
    "| a | b |",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_shown_as_it_is(text: str) -> None:
    (inline,) = (token for token in MarkdownIt("commonmark").parse(f"## a {shown(text)}") if token.type == "inline")
    assert {part.type for part in inline.children or ()} <= {"text", "text_special"}
    assert "".join(part.content for part in inline.children or ()) == f"a {text}"


@pytest.mark.parametrize("text", [*TEXTS, "`", " ` ", "```", " a ", "query: "])
def test_code_is_shown_as_it_is(text: str) -> None:
    (inline,) = (token for token in MarkdownIt("commonmark").parse(f"a {code(text)}.") if token.type == "inline")
    assert [(part.type, part.content) for part in inline.children or ()] == [
        ("text", "a "),
        ("code_inline", text),
        ("text", "."),
    ]


def test_no_line_of_a_block_ends_it() -> None:
    text = "echo '\n```\n# b\n`````\n'"
    (fence,) = MarkdownIt("commonmark").parse(block(text, "sh"))
    assert (fence.type, fence.info, fence.content) == ("fence", "sh", f"{text}\n")


@pytest.mark.parametrize("form", [shown, code])
def test_lines_and_control_characters_do_not_get_through(form: type) -> None:
    assert form("a\r\nb\u2028c\x1b[1md\u202e") in ("a b cd", "`a b cd`")


def test_addresses_do_not_become_links() -> None:
    assert shown("see https://a.org, www.a.org, b@a.org, dev/ndcg@10") == (
        r"see https\://a.org, www\.a.org, b\@a.org, dev/ndcg@10"
    )


def test_markdown_stays_until_it_is_changed() -> None:
    assert shown(Markdown("**a**")) == "**a**"
    assert shown(Markdown("**a**") + "*") == r"\*\*a\*\*\*"


def test_a_string_is_one_of_python() -> None:
    text = 'a"b\n\\c\u2028'
    assert eval(string(text)) == text
    assert "\n" not in string(text)
