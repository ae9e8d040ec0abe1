"""Reviews and travel: labels worked out independently, and the bounds for models that see no composition."""

import itertools
from collections import Counter, defaultdict

import pytest

from seqkit.data.builtin import grammar, rows


def take(name, part, count):
    return list(itertools.islice(rows(name, part), count))


GOOD = "charming brilliant funny moving clever fresh gripping elegant warm original witty delightful superb touching"
GOOD += " inventive lively"
BAD = "dull clumsy tedious shallow lazy stale boring pompous cold sloppy messy awful predictable painful silly lifeless"


def label_by_hand(text):
    """The class of a review from its surface, by a reading written apart from the rules."""
    text = text.removesuffix(" .")
    if text.startswith("although "):
        main = text.split(" , ", 1)[1]
    elif " , but " in text:
        main = text.split(" , but ")[1]
    else:
        main = text.split(" , even though ")[0]
    good, bad = set(GOOD.split()), set(BAD.split())
    words = main.split()
    strength = {"slightly": 1, "somewhat": 1, "mildly": 1, "utterly": 3, "deeply": 3, "truly": 3}
    scores = [
        (1 if word in good else -1) * strength.get(words[place - 1], 2)
        for place, word in enumerate(words)
        if word in good | bad
    ]
    signs = {score > 0 for score in scores}
    # Two of a kind agree; of two opposites the stronger wins.
    value = 0 if not scores else (1 if scores[0] > 0 else -1) if len(signs) == 1 else sum(scores)
    turns = ("is not ", "was never", "far from", "anything but", "nobody", "few people", "no critic", "hardly anyone",
             "would deny", "would dispute", "cannot claim", "refuse to say", "have to deny")  # fmt: skip
    value *= (-1) ** sum(f" {main} ".count(f" {turn}") for turn in turns)
    return "neutral" if value == 0 else "positive" if value > 0 else "negative"


@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_follow_from_negation_contrast_and_intensity(part):
    for row in take("reviews", part, 3_000):
        assert label_by_hand(row["text"]) == row["label"], row["text"]


def test_classes_are_balanced():
    counts = Counter(row["label"] for row in take("reviews", "test", 6_000))
    assert set(counts) == {"negative", "neutral", "positive"}
    assert all(count == pytest.approx(2_000, rel=0.08) for count in counts.values())


def test_golden_reviews():
    """The hand-written reading above, held to sentences that a person labelled."""
    labels = {
        "the film is slightly dull and utterly charming .": "positive",
        "the film is slightly dull and slightly charming .": "neutral",
        "nobody who saw the thing with us last night would say that the film is dull .": "positive",
        "nobody in the room would deny that the film is dull .": "negative",
        "although the film is superb , the novel has three parts .": "neutral",
        "the film is far from dull , even though the novel is awful .": "positive",
        "the play is witty , but i cannot claim that the film is funny .": "negative",
    }
    assert {text: label_by_hand(text) for text in labels} == labels


def test_a_bag_of_words_cannot_solve_reviews():
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="needs scikit-learn")
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    train, test = take("reviews", "train", 8_000), take("reviews", "test", 2_000)
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2))
    model = linear.LogisticRegression(max_iter=1000)
    model.fit(vectorizer.fit_transform([row["text"] for row in train]), [row["label"] for row in train])
    accuracy = model.score(vectorizer.transform([row["text"] for row in test]), [row["label"] for row in test])
    assert 0.4 < accuracy <= 0.65  # above chance: the features were read


@pytest.mark.parametrize("part", ["dev", "test"])  # dev too: the reserved combinations mislead such a tagger in test
def test_a_tagger_that_sees_one_word_cannot_tell_origin_from_destination(part):
    seen = defaultdict(Counter)
    for row in take("travel", "train", 10_000):
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            seen[word][tag] += 1
    hits = Counter()
    for row in take("travel", part, 2_000):
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            if tag[2:] in ("origin", "destination"):
                hits[seen[word].most_common(1)[0][0] == tag] += 1
    assert 0.25 < hits[True] / (hits[True] + hits[False]) <= 0.6


def test_tags_are_iob2_and_as_long_as_the_tokens():
    slots, intents = set(), set()
    for row in take("travel", "train", 5_000):
        assert len(row["tokens"]) == len(row["tags"])
        previous = "O"
        for tag in row["tags"]:
            if tag.startswith("I-"):
                assert previous in (f"B-{tag[2:]}", tag)
            previous = tag
        slots |= {tag[2:] for tag in row["tags"] if tag != "O"}
        intents.add(row["intent"])
    assert slots == {
        "origin", "destination", "stay_city", "depart_date", "arrive_date", "stay_date", "depart_time", "arrive_time",
        "airline", "class",
    }  # fmt: skip
    assert intents == {"book", "search", "price", "change", "cancel", "hotel"}


def spans(row):
    found = []
    for word, tag in zip(row["tokens"], row["tags"], strict=True):
        if tag.startswith("B-"):
            found.append([tag[2:], word])
        elif tag != "O":
            found[-1][1] += f" {word}"
    return [tuple(span) for span in found]


def test_slots_follow_from_the_words_around_them():
    """Every leg is read from its text: leaving verbs give origin and depart_*, arriving verbs the others."""
    leave = ("leave", "depart from", "set off from", "get away from", "fly out of", "begin in")
    arrive = ("reach", "arrive at", "get to", "fly into", "land in", "be in")
    checked = Counter()
    for row in take("travel", "test", 4_000):
        text = f" {' '.join(row['tokens'])} "
        way = [name for name, verbs in (("depart", leave), ("arrive", arrive)) for v in verbs if f"to {v} " in text]
        if len(way) == 1:
            wanted = {"depart": {"origin", "depart_date", "depart_time"},
                      "arrive": {"destination", "arrive_date", "arrive_time"}}[way[0]]  # fmt: skip
            assert {slot for slot, _ in spans(row)} <= wanted, text
            checked[way[0]] += 1
    assert min(checked.values()) > 100


def test_same_words_other_verb_other_slots():
    """Cities and dates fill both directions, cities of several words included."""
    fillers = defaultdict(set)
    for row in take("travel", "train", 10_000):
        for slot, words in spans(row):
            fillers[slot].add(words)
    assert fillers["origin"] == fillers["destination"] == fillers["stay_city"]
    assert {"Taipei", "New York", "Salt Lake City"} <= fillers["origin"]
    assert len(fillers["depart_date"] & fillers["arrive_date"]) > 80
    assert grammar("travel").columns == ["tokens", "tags", "intent"]
