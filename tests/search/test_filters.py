"""Filters: what a person types, and what passes."""

from __future__ import annotations

import pytest

from contrastive.search import Filter, parse_filter
from contrastive.search.contracts import Value

POSTING = {"place": "New  York", "remote": True, "salary": "50000", "posted": "2026-11-29", "years": 3.0, "code": "007"}


@pytest.mark.parametrize(
    ("text", "column", "operator", "value"),
    [
        ("place=Berlin", "place", "=", "Berlin"),
        (" company ~ acme & sons ", "company", "~", "acme & sons"),
        ("remote=TRUE", "remote", "=", True),
        ("remote!=false", "remote", "!=", False),
        ("salary>=50000", "salary", ">=", 50000.0),
        ("salary<-1.5e3", "salary", "<", -1500.0),
        ("posted>2026-01-01", "posted", ">", "2026-01-01"),
        ("job title=C=C", "job title", "=", "C=C"),
        ("a=nan", "a", "=", "nan"),
        ("a=1e99", "a", "=", 1e99),
    ],
)
def test_a_filter_is_read_as_it_is_typed_and_written_so(text: str, column: str, operator: str, value: Value) -> None:
    found = parse_filter(text)
    assert (found.column, found.operator, found.value) == (column, operator, value)
    assert type(found.value) is type(value)
    assert parse_filter(str(found)) == found


@pytest.mark.parametrize("text", ["", "place", "=Berlin", "place=", "place= ", "~", "<3"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a filter such as place=Berlin, remote=true, .* got "):
        parse_filter(text)
    with pytest.raises(ValueError, match="expected an operator of = != < <= > >= ~, got '=='"):
        Filter("place", "==", "Berlin")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("place=new york", True),
        ("place!=New York", False),
        ("place~york", True),
        ("place~yorks", False),
        ("place>New", True),
        ("place>3", False),
        ("place<3", False),
        ("remote=true", True),
        ("remote~tr", True),
        ("remote=false", False),
        ("salary=50000.0", True),
        ("salary>=50000", True),
        ("salary>50000", False),
        ("salary<=50000", True),
        ("salary<60000", True),
        ("salary~500", True),
        ("salary~12", False),
        ("years<10", True),
        ("years<2", False),
        ("years!=3", False),
        ("posted>=2026-11-29", True),
        ("posted<2026-11-30", True),
        ("code=7", True),
        ("nothing!=7", True),
        ("nothing=7", False),
        ("nothing~7", False),
        ("nothing<7", False),
    ],
)
def test_what_passes(text: str, passes: bool) -> None:
    assert parse_filter(text).keeps(POSTING) is passes
