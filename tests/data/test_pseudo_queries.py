import re
from dataclasses import replace

import pytest

from contrastive.data.queries.keywords import Keywords, extract_keywords, words_of
from contrastive.data.queries.pseudo_queries import PseudoQueries, PseudoQuery
from contrastive.data.queries.typing_errors import mistype

CLEAN = PseudoQueries(masked=0.0, other_forms=0.0, typos=0.0, years=0.0)
KINDS = ("title", "keywords", "title_keywords", "cloze")


def only(kind: str, **settings: float) -> PseudoQueries:
    return replace(CLEAN, mixture={kind: 1.0}, **settings)


@pytest.fixture(scope="module")
def documents() -> dict[str, str]:
    skills = ["machine learning", "SQL", "Python", "dashboards", "forecasting", "front-end", "Tableau", "Spark"]
    texts = {}
    for i in range(30):
        mine = [skills[(i * step + step) % len(skills)] for step in (1, 2, 3, 5, 7)]
        texts[f"d{i}"] = (
            f"Data Analyst {'ABCDEF'[i % 6]}x - Leeds\n"
            f"We are the team of number {i} and we like good work a lot. "
            f"Needs: {', '.join(dict.fromkeys(mine))}, no{i}.\n"
            f"You bring {2 + i % 5}+ years of experience with case {i}."
        )
    for i in range(5):
        texts[f"e{i}"] = f"Chef\nThe cook of kitchen {i} makes soup, bread, front end."
    return texts


@pytest.fixture(scope="module")
def keywords(documents: dict[str, str]) -> Keywords:
    return extract_keywords(documents, max_share=0.7)


def all_of(
    rules: PseudoQueries, documents: dict[str, str], keywords: Keywords, count: int = 4
) -> list[tuple[str, PseudoQuery]]:
    return [(id_, query) for id_, text in documents.items() for query in rules.make(id_, text, keywords, count)]


def squeezed(text: str) -> str:
    return " ".join(words_of(text))


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_every_query_is_made_of_its_document(
    kind: str, documents: dict[str, str], keywords: Keywords
) -> None:
    made = all_of(only(kind), documents, keywords)
    assert len(made) > 30
    for id_, query in made:
        assert query.kind == kind
        assert query.document == documents[id_]
        assert set(words_of(query.text)) - {"and"} <= set(words_of(documents[id_]))


def test_queries_of_a_document_differ_and_are_as_many_as_asked(documents: dict[str, str], keywords: Keywords) -> None:
    for id_ in list(documents)[:30]:
        made = PseudoQueries().make(id_, documents[id_], keywords, 5)
        assert len({query.text.lower() for query in made}) == 5
    titles = only("title").make("e0", documents["e0"], keywords, 5)
    assert [query.text.lower() for query in titles] == ["chef"]


def test_the_seed_decides_and_other_documents_do_not(documents: dict[str, str], keywords: Keywords) -> None:
    rules = PseudoQueries()
    assert rules.make("d1", documents["d1"], keywords, 4) == rules.make("d1", documents["d1"], keywords, 4)
    assert rules.make("d1", documents["d1"], keywords, 4)[:2] == rules.make("d1", documents["d1"], keywords, 2)
    assert replace(rules, seed=1).make("d1", documents["d1"], keywords, 4) != rules.make(
        "d1", documents["d1"], keywords, 4
    )


@pytest.mark.parametrize("kind", ["title", "keywords", "title_keywords"])
def test_masked_words_are_gone_from_the_document_and_nothing_else_is(
    kind: str, documents: dict[str, str], keywords: Keywords
) -> None:
    for id_, query in all_of(only(kind, masked=1.0), documents, keywords):
        said = set(words_of(query.text)) - {"and"}
        left = words_of(query.document)
        assert not said & set(left)
        assert [word for word in words_of(documents[id_]) if word not in said] == left


def test_masked_sentence_is_gone_from_the_document(documents: dict[str, str], keywords: Keywords) -> None:
    for id_, query in all_of(only("cloze", masked=1.0), documents, keywords):
        assert squeezed(query.text) not in squeezed(query.document)
        assert squeezed(query.text) in squeezed(documents[id_])
        assert query.document.startswith(documents[id_].partition("\n")[0])


@pytest.mark.parametrize(
    "text", ["Night porter", "Night porter\n", "Porter, night -", "- Porter\nIs a night porter of ours!"]
)
def test_a_document_is_never_masked_to_nothing(text: str) -> None:
    others = {f"d{i}": f"Porter {i}\nnight shifts {i}" for i in range(4)}
    keywords = extract_keywords({"a": text, **others}, min_documents=1, max_share=1.0)
    for kind in KINDS:
        for query in only(kind, masked=1.0).make("a", text, keywords, 8):
            assert words_of(query.document), (kind, query.text)
            assert set(words_of(query.document)) <= set(words_of(text))


def test_a_sentence_that_is_all_of_a_document_stays() -> None:
    text = "\nCleans the rooms of our guests at night."
    (query,) = only("cloze", masked=1.0).make("a", text, extract_keywords({"a": text}, min_documents=1), 1)
    assert query.document == text


def test_share_that_is_masked_is_about_as_asked(documents: dict[str, str], keywords: Keywords) -> None:
    made = all_of(only("keywords", masked=0.4), documents, keywords, count=8)
    said = [(word, query) for _, query in made for word in set(words_of(query.text)) - {"and"}]
    gone = sum(word not in words_of(query.document) for word, query in said) / len(said)
    assert len(said) > 300
    assert 0.3 < gone < 0.5


def test_what_a_query_says_is_true_of_all_that_it_names(documents: dict[str, str], keywords: Keywords) -> None:
    made = all_of(only("keywords"), documents, keywords)
    assert any(query.also for _, query in made)
    for id_, query in made:
        said = [term for term in keywords.holders if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", query.text.lower())]
        have_all = {other for other in documents if all(other in keywords.holders[term] for term in said)}
        assert have_all - {id_} <= query.also
        assert id_ not in query.also


def test_a_title_is_shared_by_all_documents_that_have_its_words(documents: dict[str, str], keywords: Keywords) -> None:
    made = only("title").make("e0", documents["e0"], keywords, 1)
    assert made[0].also == {"e1", "e2", "e3", "e4"}
    assert only("cloze").make("e0", documents["e0"], keywords, 1)[0].also == frozenset()


def test_other_forms_are_those_of_the_corpus(documents: dict[str, str], keywords: Keywords) -> None:
    assert keywords.forms["front-end"] == ("front end",)
    plain = "\n".join(query.text.lower() for _, query in all_of(only("keywords"), documents, keywords))
    other = "\n".join(query.text.lower() for _, query in all_of(only("keywords", other_forms=1.0), documents, keywords))
    assert plain.count("front-end") > 10 > plain.count("front end")
    assert other.count("front-end") < 10 < other.count("front end")


def test_no_word_is_said_twice_nor_in_two_forms() -> None:
    texts = {f"d{i}": f"Cook\nfront-end, front end, data end, end no{i}, soup no{i}, soups, x{i}" for i in range(9)}
    keywords = extract_keywords(texts, max_share=1.0)
    for _, query in all_of(only("keywords"), texts, keywords):
        said = words_of(query.text)
        assert len(set(said) - {"and"}) == len([word for word in said if word != "and"])
        assert not {"soup", "soups"} <= set(said)
        assert not ("front-end" in said and "front" in said)


def test_years_are_those_the_document_asks_for(documents: dict[str, str], keywords: Keywords) -> None:
    for id_, query in all_of(only("title", years=1.0), documents, keywords):
        if id_.startswith("d"):
            assert str(2 + int(id_[1:]) % 5) in re.findall(r"\d+", query.text)
        else:
            assert not re.search(r"\d", query.text)


def test_typing_mistakes_change_a_word_of_the_query(documents: dict[str, str], keywords: Keywords) -> None:
    clean = all_of(only("title"), documents, keywords, count=1)
    typed = all_of(only("title", typos=1.0), documents, keywords, count=1)
    changed = [a.text.lower() != b.text.lower() for (_, a), (_, b) in zip(clean, typed, strict=True)]
    assert sum(changed) >= 30


def test_mistype_leaves_short_words_alone() -> None:
    from random import Random

    assert {mistype("nurse in UK", Random(seed)).split()[1:].__repr__() for seed in range(50)} == {"['in', 'UK']"}
    assert mistype("a bc def", Random(0)) == "a bc def"


def test_all_separators_are_met(documents: dict[str, str], keywords: Keywords) -> None:
    text = "\n".join(query.text for _, query in all_of(only("keywords"), documents, keywords, count=8))
    assert all(separator in text for separator in (", ", " / ", "; ", " | ", " and ", " + "))


@pytest.mark.parametrize("text", ["", "\n", "!!!", "Chef", "\n\n🙂 🙂", "x" * 10_000])
def test_odd_documents_give_fewer_queries_and_no_error(text: str) -> None:
    keywords = extract_keywords({"a": text}, min_documents=1, max_share=1.0)
    made = PseudoQueries().make("a", text, keywords, 3)
    assert all(words_of(query.text) for query in made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": {"titel": 1.0}}, "expected weights of title, keywords, title_keywords, cloze"),
        ({"mixture": {"title": 0.0}}, "one or more above 0"),
        ({"mixture": {"title": -1.0, "cloze": 2.0}}, "one or more above 0"),
        ({"mixture": {}}, "one or more above 0"),
        ({"masked": 1.2}, "expected masked between 0 and 1, got 1.2"),
        ({"typos": -0.1}, "expected typos between 0 and 1"),
        ({"other_forms": 2}, "expected other_forms between 0 and 1"),
        ({"years": 2}, "expected years between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PseudoQueries(**settings)
