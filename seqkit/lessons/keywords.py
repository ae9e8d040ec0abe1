"""Key words: what an LSTM that was really trained keeps of a review, and what it lets go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import seqkit.data.builtin
from seqkit.config import read
from seqkit.data.builtin import rows
from seqkit.drawing import number
from seqkit.errors import Option, UserError
from seqkit.lessons.base import Block, Heading, HeatMap, MarkedWords, Table, Text
from seqkit.lessons.trained import opened, trained, training
from seqkit.tasks.text_trace import LayerTrace

REVIEWS = (
    "the film that my sister chose for us is dull , but the play by the two brothers is charming .",
    "the film that my sister chose for us is dull , even though the play by the two brothers is charming .",
)
WORD = "dull"
EXAMINED = 200
_JUDGEMENTS = ("Praise", "Blame")


def configuration(*, reviews: int = 12000, epochs: int = 14) -> dict[str, Any]:
    """Return the configuration of a classifier whose only knowledge of a review is the LSTM's final output."""
    return {
        "task": "sentiment",
        "data": {
            "train": {"path": "builtin:reviews", "limit": reviews},
            "dev": {"path": "builtin:reviews", "limit": 300},
            "test": {"path": "builtin:reviews", "limit": 500},
            "batch_size": 64,
        },
        "model": {
            "embedding": {"size": 48},
            "encoder": {"cell": "lstm", "hidden_size": 64},
            "pooling": ["last"],
            "dropout": 0.1,
        },
        "training": training(epochs, 5e-3),
    }


def judgements() -> set[str]:
    """Return the words that say whether something is good or bad, from the rules that the reviews are made by."""
    folder = Path(seqkit.data.builtin.__file__).parent
    lexicon = read(folder / "reviews.yaml").tree["lexicon"]
    return {line.split()[0] for kind in _JUDGEMENTS for line in lexicon[kind].splitlines()[1:] if line.strip()}


def layer_of(classifier: Any, text: str) -> LayerTrace:
    """Return what the top layer's first direction did with a text.

    Raises:
        UserError: its cell keeps nothing as it is, such as a vanilla RNN's.
    """
    layers: list[LayerTrace] = classifier.trace(text).layers
    layer = [one for one in layers if one.direction == "forward"][-1]
    if layer.share is None:
        raise UserError(
            "this lesson needs a cell that says what it keeps of its memory, such as an LSTM", key=Option("run")
        )
    return layer


def mean_shares(classifier: Any, examples: int = EXAMINED) -> dict[str, list[float]]:
    """Return for each word of test reviews the share of the final memory that it wrote, at each of its places."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in islice(rows("reviews", "test"), examples):
        trace = classifier.trace(row["text"])
        share = layer_of(classifier, row["text"]).share
        assert share is not None
        for token, value in zip(trace.tokens, share.tolist(), strict=True):
            found[token.text.lower()].append(value)
    return dict(found)


def groups(shares: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean share of a word that judges, and of any other word (the full stop left out)."""
    wanted = judgements()
    words = {word: values for word, values in shares.items() if word.isalnum()}
    parts = {
        "words that judge": [value for word, values in words.items() if word in wanted for value in values],
        "other words": [value for word, values in words.items() if word not in wanted for value in values],
    }
    return {name: mean(values) for name, values in parts.items() if values}


def blocks(runs: Sequence[Path] = (), *, trust: bool = False) -> list[Block]:
    """Compute the lesson, with a classifier that it trains or with the user's."""
    if runs:
        (classifier,) = opened(runs, "sentiment", trust).values()
        return _lesson(classifier, [Text(f"The model is the run {runs[0].resolve().name}.")])
    with trained({"a classifier of reviews": configuration()}) as models:
        (model,) = models.values()
        classifier = model
    return _lesson(classifier, _own_model(classifier))


def _own_model(classifier: Any) -> list[Block]:
    tested = list(islice(rows("reviews", "test"), 500))
    answers = classifier.predict([row["text"] for row in tested])
    right = mean(one.label == row["label"] for one, row in zip(answers, tested, strict=True))
    return [
        Text(
            "The model was trained just now on 12,000 reviews of `builtin:reviews`: an LSTM of 64 units, whose output "
            "after the last word is all that the classifier gets. On test reviews, in which subjects and judgements "
            f"meet that training never showed together, it is right {right:.1%} of the time."
        )
    ]


def _lesson(classifier: Any, about: list[Block]) -> list[Block]:
    shares = mean_shares(classifier)
    compared = groups(shares)
    return [
        Text(
            "After each word, an LSTM writes into its memory, and its forget gates decide how much of what was there "
            "stays. So the final memory is a sum: what each word wrote (input gate * candidate), times the product of "
            "all forget gates after it. That is exact, and it says how much of the final memory each word is."
        ),
        *about,
        *_reviews(classifier),
        Heading("Over many reviews"),
        Table(
            ("kind of word", "mean share"),
            [(name, f"{100 * value:.2f} %") for name, value in compared.items()],
            f"The share of the final memory that a word wrote, over {EXAMINED} test reviews. Nobody told the model "
            "which words judge: it was only told the class of each review.",
        ),
        _top_words(shares),
        Heading("What to remember"),
        Text(
            "A memory of a fixed size cannot hold a text. Training teaches the gates which words to write and which "
            "ones to forget: the LSTM remembers the key words and forgets the rest."
        ),
    ]


def _reviews(classifier: Any) -> list[Block]:
    marked = []
    for review, answer in zip(REVIEWS, classifier.predict(list(REVIEWS)), strict=True):
        share = layer_of(classifier, review).share
        assert share is not None
        marked.append(
            MarkedWords(
                _words(classifier, review),
                share.tolist(),
                "share",
                "The share of the final memory that each word wrote: the darker, the more. The model's answer: "
                f"{answer.label}, with probability {max(answer.probabilities.values()):.3f}.",
            )
        )
    layer = layer_of(classifier, REVIEWS[-1])
    still = layer.still()
    assert still is not None
    gates = {f"{name} gate": values.mean(1).tolist() for name, values in layer.gates.items() if values.min() >= 0}
    return [
        Heading("Two reviews, word by word"),
        Text(
            "What stands before `but` no longer matters, what stands before `even though` decides."
            + _compared(classifier)
        ),
        *marked,
        Heading("The gates"),
        HeatMap(
            _words(classifier, REVIEWS[-1]),
            {**gates, "still there": still.tolist()},
            "Each gate at each word of the second review, and how much of what the memory held after that word is "
            "still in the final memory (the product of the forget gates that follow); means over the units of the "
            "layer.",
            shares=True,
            across="word",
        ),
    ]


def _compared(classifier: Any) -> str:
    """Say how the share of one word differs between the reviews, where the tokenizer left the word whole."""
    shares = []
    for review in REVIEWS:
        words, share = _words(classifier, review), layer_of(classifier, review).share
        if share is None or WORD not in words:
            return ""
        shares.append(float(share[words.index(WORD)]))
    return (
        f" In the second review, {WORD} has {number(shares[1] / shares[0])} times the share that it has in the first."
    )


def _words(classifier: Any, text: str) -> list[str]:
    return [token.text for token in classifier.trace(text).tokens]


def _top_words(shares: Mapping[str, Sequence[float]], least: int = 5, shown: int = 12) -> Block:
    wanted = judgements()
    frequent = {word: values for word, values in shares.items() if len(values) >= least and word.isalnum()}
    best = sorted(frequent, key=lambda word: -mean(frequent[word]))[:shown]
    listed = [
        (word, f"{100 * mean(frequent[word]):.2f} %", str(len(frequent[word])), "yes" if word in wanted else "no")
        for word in best
    ]
    return Table(
        ("word", "mean share", "times", "judges"), listed, f"The {len(best)} words with the largest share, of those "
        f"that occur {least} times or more.",
    )  # fmt: skip
