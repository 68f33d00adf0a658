import pytest

from contrastive.data.queries.keywords import extract_keywords, title_of, words_of

BOILERPLATE = "We offer a friendly workplace with free coffee for everybody."


def corpus() -> dict[str, str]:
    """Twenty postings of nurses and twenty of data people, with lists of skills and words that mean nothing."""
    texts = {}
    for i in range(20):
        texts[f"n{i}"] = (
            f"Ward Nurse {i}\n{BOILERPLATE}\nDaily work: patient care, wound dressing and triage, no{i}.\n"
            f"You and we will meet you number n{i}."
        )
        texts[f"d{i}"] = (
            f"Data Analyst {i}\n{BOILERPLATE}\nSkills: machine learning, SQL, Node.js and dashboards, no{i}.\n"
            f"Our natural language processing (NLP) team {i} meets you and we daily. NLP, front-end; front end"
        )
    texts["n0"] += " Zanzibar, Zanzibar, Zanzibar."
    return texts


def test_keywords_are_what_tells_the_documents_apart() -> None:
    keywords = extract_keywords(corpus(), max_share=0.6)
    nurse, analyst = set(keywords.weights["n1"]), set(keywords.weights["d1"])
    assert {"patient care", "wound dressing", "triage"} <= nurse
    assert {"machine learning", "sql", "node.js", "dashboards", "nlp"} <= analyst
    assert not nurse & analyst


def test_boilerplate_rare_names_and_words_of_everybody_are_no_keywords() -> None:
    keywords = extract_keywords(corpus(), max_share=0.6)
    everything = {term for weights in keywords.weights.values() for term in weights}
    assert not everything & {"friendly", "coffee", "free coffee", "zanzibar", "we", "you"}


def test_what_several_documents_repeat_word_for_word_is_not_read() -> None:
    texts = corpus()
    for i in range(3):
        texts[f"n{i}"] += "\nPerks of this place: gym, sauna, pool."
        texts[f"d{i}"] += f"\nPerks of place {i} here: gym{', garden' * (i + 1)}."
    weights = extract_keywords(texts, max_share=0.6).weights
    assert "garden" in weights["d1"]
    assert not {"sauna", "pool"} & weights["n1"].keys()


def test_a_phrase_that_never_stands_alone_is_no_keyword() -> None:
    keywords = extract_keywords(corpus(), max_share=0.6)
    assert "meets" in keywords.holders
    assert "meets" not in keywords.weights["d1"]


def test_a_document_of_few_keywords_falls_back_on_what_never_stands_alone() -> None:
    texts = corpus() | {f"p{i}": f"Plumber {i}\nMending copper pipes is what we do on day {i}" for i in range(6)}
    assert "copper pipes" in extract_keywords(texts, max_share=0.6).weights["p1"]


def test_terms_are_tied_to_titles() -> None:
    texts = corpus()
    for i in range(20):
        for id_ in (f"n{i}", f"d{i}") if i < 12 else ():
            texts[id_] += "\nBenefits: dental plan."
    weights = extract_keywords(texts, max_share=0.7).weights["n1"]
    assert weights["triage"] > 3 * weights["dental plan"]


def test_holders_and_titles_say_where_a_term_is() -> None:
    keywords = extract_keywords(corpus(), max_share=0.6)
    assert keywords.holders["machine learning"] == {f"d{i}" for i in range(20)}
    assert keywords.titled["nurse"] == {f"n{i}" for i in range(20)}
    assert keywords.titled["7"] == {"n7", "d7"}


def test_other_forms_are_found_in_the_corpus() -> None:
    forms = extract_keywords(corpus(), max_share=0.6).forms
    assert forms["front-end"] == ("front end",)
    assert forms["nlp"] == ("natural language processing",)
    assert forms["natural language processing"] == ("nlp",)
    assert "sql" not in forms


def test_a_bracket_that_is_no_acronym_is_no_form() -> None:
    texts = {f"d{i}": f"Analyst {i}\nmachine learning (SQL), SQL, machine learning" for i in range(5)}
    assert extract_keywords(texts, max_share=1.0).forms == {}


def test_a_word_counts_for_its_document_and_not_for_each_mention() -> None:
    texts = {f"d{i}": f"Analyst {i}\nx, y" for i in range(9)} | {"e": "Chef\nsoup, soup, soup, soup"}
    assert "soup" not in extract_keywords(texts, min_documents=2, max_share=1.0).holders


@pytest.mark.parametrize(("min_documents", "max_share"), [(0, 0.5), (1, 0.0), (1, 1.5)])
def test_settings_out_of_range_are_refused(min_documents: int, max_share: float) -> None:
    with pytest.raises(ValueError, match="min_documents >= 1 and max_share in"):
        extract_keywords({}, min_documents=min_documents, max_share=max_share)


def test_words_and_titles() -> None:
    assert words_of("C# / .NET, R&D; don't \u2013 5 years") == ["c#", ".net", "r&d", "don't", "5", "years"]
    assert title_of(" Chef \nsoup") == "Chef"
    assert title_of("") == ""
