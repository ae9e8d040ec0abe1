"""What holds for every built-in data set: deterministic, endless, disjoint parts, combinations kept for test."""

import functools
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seqkit.data.builtin as package
from seqkit.config import read
from seqkit.data.builtin import NAMES, PARTS, columns, grammar, rows
from seqkit.errors import UserError

SIZES = {"train": 30_000, "dev": 1_500, "test": 2_000}


def take(name, part, count, seed=0):
    return list(itertools.islice(rows(name, part, seed), count))


def sentence(row):
    """The first column as one string."""
    first = next(iter(row.values()))
    return first if isinstance(first, str) else " ".join(first)


@pytest.fixture(scope="module", params=NAMES)
def data(request):
    return request.param, {part: take(request.param, part, size) for part, size in SIZES.items()}


def test_rows_have_the_columns_and_no_stray_space(data):
    name, parts = data
    for row in itertools.chain(*parts.values()):
        assert list(row) == columns(name)
        for column, value in row.items():
            words = value.split(" ") if isinstance(value, str) else value
            assert words
            assert all(words)
            assert not any(set("{}$~=%" if column == "tags" else "{}$~=%_") & set(word) for word in words)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", PARTS)
def test_equal_seeds_give_equal_rows_and_others_do_not(name, part):
    assert take(name, part, 100, 3) == take(name, part, 100, 3)
    assert take(name, part, 100, 3) != take(name, part, 100, 4)


def test_rows_do_not_depend_on_the_hash_seed_of_the_process():
    code = "from itertools import *; import seqkit.data.builtin as b; "
    code += "print([list(islice(b.rows(n, 'dev'), 20)) for n in b.NAMES])"
    outputs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert outputs == {f"{[take(name, 'dev', 20) for name in NAMES]}\n"}


def test_two_iterators_do_not_disturb_each_other():
    left, right = rows("travel", "train"), rows("travel", "train")
    assert [next(left) for _ in range(5)] == [next(right) for _ in range(5)] == take("travel", "train", 5)


def test_parts_share_no_sentence_even_across_seeds(data):
    name, parts = data
    sets = {part: {sentence(row) for row in found} for part, found in parts.items()}
    sets["train"] |= {sentence(row) for row in take(name, "train", 10_000, seed=9)}
    for left, right in itertools.combinations(PARTS, 2):
        assert not sets[left] & sets[right]


def test_duplicates_are_rare(data):
    name, parts = data
    limit = {"reviews": 0.02, "phrases": 0.02, "travel": 0.05}[name]
    found = [sentence(row) for row in parts["train"]]
    assert 1 - len(set(found)) / len(found) < limit


def test_the_first_column_determines_the_others(data):
    _, parts = data
    seen = {}
    for row in itertools.chain(*parts.values()):
        assert seen.setdefault(sentence(row), row) == row


def test_every_word_of_test_occurs_in_train(data):
    name, parts = data
    for column in columns(name):

        def words(part, column=column):
            values = (row[column] for row in parts[part])
            return {word for value in values for word in (value.split() if isinstance(value, str) else value)}

        assert words("test") <= words("train")


def test_train_and_test_are_about_equally_long(data):
    """Rejecting whole sentences would make train short and test long (phrases: 13.4 and 17.9 words)."""
    _, parts = data
    mean = {part: sum(len(sentence(row).split()) for row in found) / len(found) for part, found in parts.items()}
    assert mean["test"] == pytest.approx(mean["train"], rel=0.08)


def subjects_and_predicates(text):
    """The subject x predicate pairs of a review: the work named in a clause and its first judgement or fact."""
    lexicon = words_of("reviews", "Work", "Praise", "Blame", "FactWords")
    works = lexicon["Work"]
    predicates = sorted(lexicon["Praise"] + lexicon["Blame"] + lexicon["FactWords"], key=len, reverse=True)
    for clause in re.split(r" ?, (?:but|even though)? ?", text):
        work = next((work for work in works if work in clause), None)
        if work:
            found = [(f"{clause} ".index(f" {word} "), word) for word in predicates if f" {word} " in f"{clause} "]
            yield work, min(found)[1]


@functools.cache
def words_of(name, *categories):
    """First columns of categories of the lexicon, read from the rule file's text and not through the generator."""
    lexicon = read(Path(package.__file__).parent / f"{name}.yaml").tree["lexicon"]
    found = {}
    for category in categories:
        head, *lines = lexicon[category].strip().split("\n")
        column = head.split().index("text") if "text" in head.split() else 0
        found[category] = [line.split()[column].replace("_", " ") for line in lines]
    return found


def check_combinations(pairs, train, test):
    """No pair is in both kinds; every test row has a pair that train lacks; train has most of the others."""
    known = {pair for row in train for pair in pairs(row)}
    for row in test:
        assert set(pairs(row)) - known, row
    return known


def test_each_review_of_test_has_a_subject_and_predicate_that_train_never_joins():
    train, test = take("reviews", "train", 12_000), take("reviews", "test", 300)
    known = check_combinations(lambda row: list(subjects_and_predicates(row["text"])), train, test)
    assert {work for work, _ in known} == set(words_of("reviews", "Work")["Work"])


def test_each_request_of_test_has_a_city_and_context_that_train_never_joins():
    lexicon = words_of("travel", "City1", "City2", "City3", "Go.depart", "Go.arrive", "AskRoom", "AskFlight", "Wish")
    cities = "|".join(lexicon["City1"] + lexicon["City2"] + lexicon["City3"])
    go = "|".join(lexicon["Go.depart"] + lexicon["Go.arrive"])
    wish, room = "|".join(lexicon["Wish"]), "|".join(lexicon["AskRoom"])

    def pairs(row):
        text = " ".join(row["tokens"])
        if any(f"{ask} " in text for ask in lexicon["AskFlight"]):
            return re.findall(rf"\b(from|to) ({cities})\b", text)
        before = re.findall(rf"\b({go}) ({cities})\b", text) + re.findall(rf"({room}) in ({cities})\b", text)
        after = re.findall(rf"\b({cities}) (?:, [^,]+, )?is the city (?:{wish}) ({go})\b", text)
        return before + [(verb, city) for city, verb in after]

    check_combinations(pairs, take("travel", "train", 20_000), take("travel", "test", 1_000))


def test_adjective_and_noun_of_phrases_are_kept_apart():
    lexicon = words_of("phrases_lexicon", "Adjective.person", "Adjective.thing", "Noun.person", "Noun.thing")
    adjectives = {*lexicon["Adjective.person"], *lexicon["Adjective.thing"]}
    nouns = {*lexicon["Noun.person"], *lexicon["Noun.thing"]}

    def pairs(part, count):
        found = (itertools.pairwise(words) for words in (r["source"].split() for r in take("phrases", part, count)))
        return {pair for row in found for pair in row if pair[0] in adjectives and pair[1] in nouns}

    train, test = pairs("train", 30_000), pairs("test", 5_000)
    reserved = {pair for pair in train | test if grammar("phrases").reserved(" ".join(pair))}
    assert not train & reserved
    assert len(test & reserved) > 30
    assert not (test - reserved) - train


def test_unknown_names_and_parts_say_what_is_near():
    with pytest.raises(UserError, match=r"builtin:review: .*did you mean 'reviews'"):
        rows("review", "train")
    with pytest.raises(UserError, match="did you mean 'travel'"):
        columns("travels")
    with pytest.raises(UserError, match=r"unknown part 'tests'.*did you mean 'test'"):
        rows("phrases", "tests")
