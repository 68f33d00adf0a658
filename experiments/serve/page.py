"""The page and its JSON: a plain form, no script, nothing from elsewhere.

What a posting or a query says is shown as text: the templates escape all of it, and a Content-Security-Policy forbids
the browser to run or load anything but the page's own style sheet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contrastive.data.shown import clean
from contrastive.search import parse_filter
from contrastive.search.contracts import Filter
from contrastive.search.explaining.explanation import Span, joined
from contrastive.search.explaining.highlights import excerpt, pieces
from experiments.serve.results import Found, Results, Searching

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_MOST_VALUES = 30
_MOST_COLUMNS = 6
_MOST_HITS = 50

Texts = Annotated[list[str] | None, Query()]


def make_app(searching: Searching, *, name: str, example: str, hits: int = 5) -> FastAPI:
    """Return the program behind the page.

    Args:
        searching: What searches.
        name: What is searched, in words.
        example: A query to begin with.
        hits: Postings to show for each system, unless the page asks for another number.
    """
    app = FastAPI(title="Semantic job search", version="1", docs_url=None, redoc_url=None)  # those pages load scripts
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"shown": clean, "excerpt": excerpt_of, "marked": whole_of}
    template = environment.get_template("search.html")
    said = {"name": name, "example": example, "example_link": "?" + urlencode({"q": example}), "default_k": hits}

    @app.middleware("http")
    async def protect(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page(q: str | None = None, k: str = "", filter: Texts = None, system: Texts = None) -> HTMLResponse:
        chosen = [each for each in filter or [] if each.strip()]
        results, problem = None, ""
        if q is not None and not q.strip():
            problem = "Type the skills, the job or the years you are looking for."
        elif q is not None:
            try:
                results = searching.search(q, _number(k, hits), read_filters(chosen), system or ())
            except ValueError as error:
                problem = clean(str(error))
        shown = template.render(
            **said,
            query=q or "",
            k=k if k.isdecimal() and k.isascii() else str(hits),
            results=results,
            problem=problem,
            systems=list(searching.systems.values()),
            asked_systems=set(system or searching.systems),
            selects=selects(searching),
            chosen=chosen,
            typed=", ".join(each for each in chosen if each not in _offered(searching)),
            status=status_of(results),
        )
        return HTMLResponse(shown, status_code=400 if problem and q and q.strip() else 200)

    @app.get("/api/search", summary="Search, and say why each posting matched")
    def search(
        q: Annotated[str, Query(description="skills, a job, years of experience, in any words")],
        k: Annotated[int, Query(ge=1, le=_MOST_HITS, description="postings for each system")] = hits,
        filter: Annotated[
            list[str] | None, Query(description="such as place=Berlin, salary>=50000, company~acme")
        ] = None,
        system: Annotated[
            list[str] | None, Query(description="bm25, untuned, encoder, hybrid; all of them if none")
        ] = None,
    ) -> Results:
        return searching.search(q, k, read_filters(filter or []), system or ())

    @app.exception_handler(ValueError)
    async def refuse(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": clean(str(error))}, status_code=400)

    @app.get("/style.css", include_in_schema=False)
    def style() -> FileResponse:
        return FileResponse(
            _HERE / "templates" / "style.css", media_type="text/css", headers={"Cache-Control": "no-cache"}
        )

    return app


def read_filters(typed: Sequence[str]) -> list[Filter]:
    """Read filters, of which a field may have several between commas; a comma that no filter follows is of a value."""
    filters: list[Filter] = []
    for field in typed:
        texts: list[str] = []
        for part in field.split(","):
            if texts and not any(mark in part for mark in "=<>~"):
                texts[-1] += "," + part
            elif part.strip():
                texts.append(part)
        filters += map(parse_filter, texts)
    return filters


def selects(searching: Searching) -> list[dict[str, Any]]:
    """Return the columns to choose a value of: those with a few of them."""
    found = []
    for column, values in searching.index.postings.columns.items():
        if 2 <= len(values) <= _MOST_VALUES and not any(mark in column for mark in "=<>!~,"):
            choices = [(str(Filter(column, "=", value)), str(value), number) for value, number in values]
            found.append({"column": column, "choices": choices})
    return found[:_MOST_COLUMNS]


def _offered(searching: Searching) -> set[str]:
    return {text for select in selects(searching) for text, _, _ in select["choices"]}


def status_of(results: Results | None) -> str:
    """Return how much was found and how long it took, in a sentence; "" before a search."""
    if results is None:
        return ""
    found = len({hit.id for column in results.columns for hit in column.hits})
    search, explain = (sum(getattr(column, name) for column in results.columns) for name in ("search_ms", "explain_ms"))
    if not found:
        return f"No posting found, after {search:,.0f} ms."
    return f"{found} posting{'' if found == 1 else 's'} found in {search:,.0f} ms, explained in {explain:,.0f} ms."


def excerpt_of(found: Found) -> list[list[tuple[str, bool]]]:
    """Return the sentences of a posting that answer best, marked."""
    return excerpt(found.text, _spans(found))


def whole_of(found: Found) -> list[tuple[str, bool]]:
    """Return a posting, marked."""
    return pieces(found.text, _spans(found))


def _spans(found: Found) -> tuple[Span, ...]:
    return joined(Span(word.start, word.end, word.score) for skill in found.skills for word in skill.words)


def _number(k: str, usual: int) -> int:
    """Return how many postings the page asks for, within reason."""
    return min(max(1, int(k)), _MOST_HITS) if k.isdecimal() and k.isascii() and len(k) < 9 else usual
