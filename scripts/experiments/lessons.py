"""The lessons that train models, in full: their times, and what must be better than what.

python scripts/experiments/lessons.py [NAME ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from seqkit.lessons import bottleneck, keywords, taipei, variants
from seqkit.lessons.trained import trained


def run_taipei() -> None:
    with trained({name: taipei.configuration(*how) for name, how in taipei.ENCODERS.items()}) as taggers:
        found = {name: taipei.scores(tagger) for name, tagger in taggers.items()}
        told = {name: taipei.answers(tagger) for name, tagger in taggers.items()}
    print({name: scores[taipei.ALL] for name, scores in found.items()}, told)
    blind, rnn, lstm, both = (found[name] for name in taipei.ENCODERS)
    for slot in ("origin", "destination"):
        assert blind[slot] < 0.5 < 0.85 < min(rnn[slot], lstm[slot]) < 0.98 < both[slot]
    assert told["LSTM"][:2] == ["to", "from"]
    assert told["two-way LSTM"] == ["to", "from", "to", "from"]
    assert told["feed-forward"][0] == told["feed-forward"][1]


def run_variants() -> None:
    count, copy, ahead = variants.EXERCISES
    networks = {name: variants.exercise(name, copy) | variants.exercise(name, ahead) for name in variants.NETWORKS}
    for name in variants.NETWORKS:
        networks[name] |= variants.exercise(name, count)
    print(networks)
    both = networks.pop("Elman, both ways")
    assert both["look ahead"] > 0.95 > 0.35 > max(found["look ahead"] for found in networks.values())
    assert networks["Jordan"]["copy"] < 0.8 < 0.95 < min(networks[name]["copy"] for name in ("Elman", "GRU", "LSTM"))
    gated = [networks[name]["count 80"] for name in ("GRU", "LSTM", "peephole LSTM")]
    assert min(gated) > networks["Elman"]["count 80"] + 0.05
    kept = {name: [variants.remembers(name, gap) for gap in variants.GAPS] for name in variants.WITH_GAPS}
    print(kept)
    elman = kept.pop("Elman")
    assert elman[0] > 0.95 > 0.35 > elman[-1]
    for values in kept.values():
        assert min(values[:4]) > 0.95
        assert values[-1] > elman[-1] + 0.2


def run_keywords() -> None:
    with trained({"a classifier of reviews": keywords.configuration()}) as models:
        (classifier,) = models.values()
        found = keywords.groups(keywords.mean_shares(classifier))
        answers = [one.label for one in classifier.predict(list(keywords.REVIEWS))]
    print(found, answers)
    assert found["words that judge"] > 2 * found["other words"]
    assert answers == ["positive", "negative"]


def run_bottleneck() -> None:
    found = bottleneck.measure()
    print(found)
    fixed, attention = ([group.score for group in groups] for _, groups in found.values())
    assert fixed == sorted(fixed, reverse=True)
    assert fixed[0] > 90 > 50 > fixed[-1]
    assert min(attention) > 95


LESSONS: dict[str, Callable[[], None]] = {
    "taipei": run_taipei,
    "variants": run_variants,
    "keywords": run_keywords,
    "bottleneck": run_bottleneck,
}


def main() -> None:
    for name in sys.argv[1:] or LESSONS:
        began, busy = time.perf_counter(), time.process_time()
        LESSONS[name]()
        took, used = time.perf_counter() - began, time.process_time() - busy
        print(f"{name}: as expected; {took:.0f} seconds, {used:.0f} of them computing", flush=True)


if __name__ == "__main__":
    main()
