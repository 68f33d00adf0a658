"""HTML in texts."""

import pytest

from contrastive.data.markup import has_markup, strip_markup


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<h2>Cook</h2><p>Soups &amp; sauces<br>daily</p>", "Cook\nSoups & sauces\ndaily"),
        ("<div>one\n two</div><ul><li>a<li>b</ul>", "one two\na\nb"),
        ("first line\nwith <b>bold</b>\nlast", "first line\nwith bold\nlast"),
        ("<p>C++ &lt;map&gt; and vector<int></p>", "C++ <map> and vector<int>"),
        ("&lt;p&gt;Caf&eacute;&lt;/p&gt;&lt;p&gt;bar&lt;/p&gt;", "Café\nbar"),
        ("R&amp;D&nbsp;lead", "R&D lead"),
        ("<style>p {color: red}</style><script>a < b</script><P CLASS='x'>seen", "seen"),
        ("<table><tr><td>Pay</td><td>20</td></tr></table>", "Pay 20"),
        ("<p>cut <!-- said aside --> off</p>", "cut off"),
    ],
)
def test_what_a_reader_sees_stays(text: str, expected: str) -> None:
    assert has_markup(text)
    assert strip_markup(text) == expected


@pytest.mark.parametrize("text", ["a < b and c > d", "std::vector<int>  x", "AT&T, R&D", "<5 years", "a\n\n  b", ""])
def test_what_is_no_html_stays_as_it_is(text: str) -> None:
    assert not has_markup(text)
    assert strip_markup(text) == text
