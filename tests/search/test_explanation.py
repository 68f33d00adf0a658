"""Why a posting was found: the words that answered each skill, whatever the representation, and what is missing."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from contrastive.encoder import Encoder
from contrastive.encoder.places import locate_tokens
from contrastive.search import Hit, Posting, SearchIndex, build_index, open_index
from contrastive.search.explaining import matching
from contrastive.search.explaining.explanation import Answer, Explainer, Span, _spans
from contrastive.search.explaining.highlights import excerpt, pieces, plain
from contrastive.search.explaining.matching import (
    Parts,
    PhraseMatcher,
    TermMatcher,
    TokenMatcher,
    Units,
    matcher_of,
    phrases,
)
from contrastive.search.explaining.skills import MOST_SKILLS, skills_of
from contrastive.similarity import score_texts, similarity_of

OTHERS = {f"o{number}": f"Chef\nA kitchen for the chef, {number} engineers" for number in range(20)}
NURSE = "Nurse at night\nThe hospital needs a nurse. Python, C++ or data!"
DOCUMENTS = {"n": NURSE, **OTHERS}
OPTIONS = {
    "pooled": {},
    "pooled windows": {"representation": "pooled", "windows": True, "max_length": 12},
    "tokens": {},
    "tokens weighed": {"representation": "tokens", "query_weights": "words", "windows": True, "max_length": 12},
    "lexical": {},
    "lexical learnt": {"representation": "lexical", "query_weights": "learnt", "windows": True, "max_length": 12},
}


def encoder_of(folder: Path, kind: str) -> Encoder:
    return Encoder.from_pretrained(folder, **{"representation": kind, **OPTIONS[kind]})  # type: ignore[arg-type]


def explained(index: SearchIndex, query: str, text: str, system: str) -> dict[str, Answer]:
    index_hits = [hit for hit in index.search([query], 50, passages=False)[0] if hit.text == text]
    (found,) = Explainer(index).explain(query, index_hits, system=system)  # type: ignore[arg-type]
    return {answer.skill.text: answer for answer in found.answers}


def said(answer: Answer, text: str) -> list[str]:
    return [text[span.start : span.end] for span in answer.spans]


@pytest.mark.parametrize("kind", OPTIONS)
def test_each_skill_is_answered_by_its_words_and_others_are_missing(kind: str, tiny_model_folder: Path) -> None:
    index = SearchIndex(encoder_of(tiny_model_folder, kind), DOCUMENTS)
    answers = explained(index, "nurse, python and zzqx7", NURSE, "encoder")
    assert list(answers) == ["nurse", "python", "zzqx7"]
    assert any("nurse" in words.lower() for words in said(answers["nurse"], NURSE))
    assert any("Python" in words for words in said(answers["python"], NURSE))
    for answer in answers.values():
        assert answer.is_missing == (not answer.spans)
    for answer in explained(index, "nurse, python", OTHERS["o3"], "encoder").values():
        assert answer.is_missing == (answer.score is not None and answer.score <= (answer.threshold or 0.0))


def test_word_matching_answers_by_words_alone_put_right(tiny_encoder: Encoder) -> None:
    answers = explained(SearchIndex(tiny_encoder, DOCUMENTS), "nusre python, C++, night chef, 5", NURSE, "bm25")
    assert [(answer.skill.asked, answer.score, said(answer, NURSE)) for answer in answers.values()] == [
        ("nurse python", 1.0, ["Nurse", "Python"]),
        ("C++", 1.0, ["C++"]),
        ("night chef", 0.5, ["night"]),
        ("5", 0.0, []),
    ]
    assert [answer.is_missing for answer in answers.values()] == [False, False, False, True]


def test_the_encoder_alone_is_explained_as_it_is_asked_and_a_hybrid_with_words_put_right(tiny_encoder: Encoder) -> None:
    weights = {"BM25+spelling": 0.5, "encoder": 0.5}
    index = SearchIndex(tiny_encoder, DOCUMENTS, weights=weights)
    assert explained(index, "nusre", NURSE, "encoder")["nusre"].skill.asked == "nusre"
    hybrid = explained(index, "nusre", NURSE, "hybrid")["nusre"]
    assert (hybrid.skill.asked, hybrid.is_missing) == ("nurse", False)
    words = SearchIndex(tiny_encoder, DOCUMENTS, weights={"BM25+spelling": 1.0, "encoder": 0.0})
    assert explained(words, "nusre", NURSE, "hybrid")["nusre"].threshold == 0.0


def test_all_words_of_a_skill_answer_it_whatever_the_encoder_says(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PhraseMatcher, "compare", lambda _self, _parts, units: torch.zeros(1, len(units.places)))
    answers = explained(SearchIndex(tiny_encoder, DOCUMENTS), "hospital python, hospital chef", NURSE, "encoder")
    assert said(answers["hospital python"], NURSE) == ["hospital", "Python"]
    assert answers["hospital chef"].is_missing


def test_words_that_say_nothing_are_marked_only_where_there_are_no_others() -> None:
    text = "of Java and C++ x"
    assert _spans(text, [((0, 2), 0.9), ((4, 5), 0.5), ((12, 13), 0.7)]) == (Span(3, 7, 0.5), Span(12, 15, 0.7))
    assert _spans(text, [((0, 1), 0.9)]) == (Span(0, 2, 0.9),)


def test_chance_is_the_95th_percentile_of_postings_that_share_no_word(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = {str(number): ("python " if number < 10 else "") + f"x{number}" for number in range(60)}
    scores = {f"x{number}": number / 100 for number in range(60)}

    def compare(_self: PhraseMatcher, _parts: Parts, units: Units) -> torch.Tensor:
        return torch.tensor([[scores[units.values[0]]]])  # type: ignore[index]

    def read(_self: PhraseMatcher, texts: Sequence[str], _embedded: object) -> list[Units]:
        return [Units([text.rsplit(" ", maxsplit=1)[-1]], [(0, len(text))]) for text in texts]

    monkeypatch.setattr(PhraseMatcher, "compare", compare)
    monkeypatch.setattr(PhraseMatcher, "read", read)
    index = SearchIndex(tiny_encoder, documents)
    answers = explained(index, "python, chef", "x59", "encoder")
    assert answers["chef"].threshold == pytest.approx(0.95 * 0.59)  # 0 to 0.59
    assert answers["python"].threshold == pytest.approx(0.1 + 0.95 * 0.49)  # 0.10 to 0.59: the others have the word
    everywhere = SearchIndex(tiny_encoder, {id_: text for id_, text in documents.items() if "python" in text})
    assert explained(everywhere, "python", "python x3", "encoder")["python"].threshold == 0.0  # the lowest of all


@pytest.mark.parametrize("kind", ["tokens", "tokens weighed"])
def test_token_vectors_are_those_of_the_encoder_and_know_their_characters(kind: str, tiny_model_folder: Path) -> None:
    encoder = encoder_of(tiny_model_folder, kind)
    encoder.document_prompt = "the job "
    text = "Nurse, data \N{GRINNING FACE} and python for years"
    (located,) = locate_tokens(encoder, [text], "document", encoder.head)
    words = [text[start:end].lower() for start, end in located.places]
    assert [word for word in words if len(word) > 1] == ["nurse", "data", "python", "years"]
    assert "," not in words
    all_of_them = encoder.encode([text], side="document", as_numpy=False).vectors  # type: ignore[attr-defined]
    for vector in located.vectors:
        assert (all_of_them - vector).abs().amax(1).min() < 1e-5
    (asked,) = TokenMatcher(encoder, encoder).ask(skills_of("nurse years"))
    (units,) = TokenMatcher(encoder, encoder).read([text])
    assert asked.weights.sum() == pytest.approx(1.0)
    query = encoder.encode(["nurse years"], as_numpy=False).vectors  # type: ignore[attr-defined]
    for vector in asked.values:
        assert (torch.nn.functional.normalize(query, dim=1) - vector).abs().amax(1).min() < 1e-5  # type: ignore[operator]
    expected = torch.nn.functional.cosine_similarity(asked.values[:, None], units.values[None], dim=-1)  # type: ignore[call-overload,index]
    torch.testing.assert_close(TokenMatcher(encoder, encoder).compare(asked, units), expected)


def test_the_token_vectors_of_an_index_serve_again(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {**DOCUMENTS, "long": " ".join(f"python, {n} years;" for n in range(9)), "empty": "?!"}
    postings = [Posting(id_, text) for id_, text in texts.items()]
    lance = ["lance"] if find_spec("lancedb") else []
    for number, options in enumerate(({}, {"punctuation": False, "windows": True, "max_length": 12})):
        encoder = Encoder.from_pretrained(tiny_model_folder, representation="tokens", **options)  # type: ignore[arg-type]
        encoder.document_prompt = "the job "
        indices = [SearchIndex(encoder, texts)]
        for engine in ("exact", *lance):
            build_index(tmp_path / f"{engine}{number}", encoder, postings, engine=engine)  # type: ignore[arg-type]
            indices.append(open_index(tmp_path / f"{engine}{number}", encoder))
        *hits, empty = sorted(indices[0].search(["python"], 50, passages=False)[0], key=lambda hit: hit.id == "empty")
        expected = [unit for hit in hits for unit in TokenMatcher(encoder, encoder).read([hit.text])]
        with monkeypatch.context() as without_the_model:
            without_the_model.setattr(matching, "locate_tokens", None)
            for index in indices:
                for ours, theirs in zip(Explainer(index)._units(hits), expected, strict=True):
                    assert ours.places == theirs.places
                    torch.testing.assert_close(ours.values, theirs.values, atol=2e-3, rtol=0)
        for index in indices:
            assert [unit.places for unit in Explainer(index)._units([empty])] == [[]]
            other = Hit(1, "n", 1.0, "", NURSE.replace("nurse", "chef"))  # not what the index says of it
            (units,), (read,) = Explainer(index)._units([other]), TokenMatcher(encoder, encoder).read([other.text])
            torch.testing.assert_close(units.values, read.values)
    for compression in ("pool2", "8bit"):
        compressed = Encoder.from_pretrained(tiny_model_folder, representation="tokens", compression=compression)
        (units,) = Explainer(SearchIndex(compressed, texts))._units(hits[:1])
        (read,) = TokenMatcher(compressed, compressed).read([hits[0].text])
        torch.testing.assert_close(units.values, read.values)


@pytest.mark.parametrize("kind", ["lexical", "lexical learnt"])
def test_terms_weigh_in_a_text_what_they_weigh_most_in_its_tokens(kind: str, tiny_model_folder: Path) -> None:
    encoder = encoder_of(tiny_model_folder, kind)
    matcher = matcher_of(encoder)
    assert isinstance(matcher, TermMatcher)
    (parts,), (units,) = matcher.ask(skills_of("nurse python")), matcher.read([NURSE])
    assert isinstance(parts.values, torch.Tensor)
    whole = encoder.encode([NURSE], side="document", as_numpy=False)[0]
    closest = matcher.compare(parts, units).max(1).values
    assert (closest <= whole[parts.values] + 1e-5).all()  # special tokens, which stand nowhere, may weigh more
    assert torch.isclose(closest, whole[parts.values], atol=1e-5).any()


def test_phrases_are_compared_as_the_encoder_compares(tiny_encoder: Encoder) -> None:
    matcher = matcher_of(tiny_encoder)
    (parts,), (units,) = matcher.ask(skills_of("data")), matcher.read([NURSE])
    texts = [NURSE[start:end] for start, end in units.places]
    assert texts == ["Nurse at night", "The hospital needs a nurse", "Python", "C++", "data"]
    expected = score_texts(
        similarity_of(tiny_encoder),
        tiny_encoder.encode(["data"], as_numpy=False),
        tiny_encoder.encode(texts, side="document", as_numpy=False),
    )
    torch.testing.assert_close(matcher.compare(parts, units), expected.float())


def test_long_phrases_are_cut_and_empty_texts_have_none() -> None:
    text = " ".join(f"w{number}" for number in range(20))
    assert [len(text[a:b].split()) for a, b in phrases(text)] == [6, 7, 7]
    assert phrases("") == phrases(" \n - \n") == []


@pytest.mark.parametrize("kind", ["pooled", "tokens", "lexical"])
def test_a_posting_without_words_answers_nothing(kind: str, tiny_model_folder: Path) -> None:
    index = SearchIndex(encoder_of(tiny_model_folder, kind), {"a": "", "b": " \n!", "c": "nurse"})
    for text in ("", " \n!"):
        assert explained(index, "python", text, "encoder")["python"].spans == ()


def test_a_query_is_read_as_far_as_the_model_reads_it(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, representation="tokens", query_length=8)
    answers = explained(SearchIndex(encoder, DOCUMENTS), "nurse, python, " + "the, " * 9 + "chef", NURSE, "encoder")
    assert answers["python"].score is not None
    assert (answers["chef"].score, answers["chef"].is_missing) == (None, True)
    long = skills_of(",".join(f"s{number}" for number in range(1000)))
    assert (len(long.skills), long.further) == (MOST_SKILLS, 1000 - MOST_SKILLS)


def test_skills_keep_their_places_where_words_are_put_right() -> None:
    asked = skills_of("Pyhton ; sql\nand C++,,Python", lambda text: text.replace("Pyhton", "the Python"))
    assert [(skill.text, skill.asked) for skill in asked.skills] == [
        ("Pyhton", "the Python"),
        ("sql", "sql"),
        ("C++", "C++"),
        ("Python", "Python"),
    ]
    assert all(asked.text[skill.start : skill.end] == skill.asked for skill in asked.skills)
    assert [skill.text for skill in skills_of("a, b", lambda _: "a, b, c").skills] == ["a", "b"]


def test_marks_stand_where_the_words_do() -> None:
    text = "Nurse\nNights at a hospital. Good pay. Python!\n\nBye"
    assert pieces(text, [Span(0, 5, 1.0)]) == [("Nurse", True), (text[5:], False)]
    found = excerpt(text, [Span(0, 5, 9.0), Span(18, 26, 0.5), Span(38, 44, 0.9)], size=60)
    assert found == [[("Nights at a ", False), ("hospital", True), (".", False)], [("Python", True), ("!", False)]]
    assert excerpt("Nurse", [Span(0, 5, 1.0)]) == [[("Nurse", True)]]
    assert excerpt(text, [], size=20) == [[("Nights at a hospital.", False)]]
    assert excerpt("", []) == []


def test_plain_values_hold_the_words(tiny_encoder: Encoder) -> None:
    index = SearchIndex(tiny_encoder, DOCUMENTS)
    hits = index.search(["C++"], 1, system="bm25", passages=False)[0]
    (found,) = Explainer(index).explain("C++", hits, system="bm25")
    start = NURSE.index("C++")
    word = {"start": start, "end": start + 3, "text": "C++", "score": 1.0}
    expected = {"skill": "C++", "asked": "C++", "score": 1.0, "threshold": 0.0, "missing": False, "words": [word]}
    assert plain(found, hits[0].text) == [expected]
