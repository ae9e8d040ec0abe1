"""Bags of words on a configuration's data, tuned on dev, scored once on test: what a sequence model has to beat.

SEQKIT_DATA=/folder/of/the/data python scripts/experiments/baselines.py configs/sentiment/sst2.yaml [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from typing import Any

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from seqkit.data.sources import open_source
from seqkit.run import read_config

TOKEN = r"(?u)\S+"


def candidates() -> dict[str, list[Any]]:
    """For each baseline the settings that dev chooses from."""
    return {
        "TF-IDF 1-2-grams + logistic regression": [
            make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKEN, min_df=least, sublinear_tf=sublinear),
                LogisticRegression(C=strength, max_iter=2000),
            )
            for strength in (1, 3, 10, 30)
            for least in (1, 2)
            for sublinear in (False, True)
        ],
        "naive Bayes on 1-2-grams": [
            make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=TOKEN), MultinomialNB(alpha=alpha))
            for alpha in (0.1, 0.3, 1.0, 3.0)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    config: Any = read_config(given.config, given.overrides)[0]
    parts = {}
    for part in ("train", "dev", "test"):
        data = open_source(getattr(config.data, part), {"text": str, "label": str}, part).dataset
        parts[part] = ([text.lower() for text in data["text"]], list(data["label"]))
    for name, models in candidates().items():
        scored = [(accuracy_score(parts["dev"][1], m.fit(*parts["train"]).predict(parts["dev"][0])), m) for m in models]
        dev, best = max(scored, key=lambda pair: pair[0])
        guess = best.predict(parts["test"][0])
        accuracy, f1 = accuracy_score(parts["test"][1], guess), f1_score(parts["test"][1], guess, average="macro")
        print(f"{name}: dev accuracy {dev:.4f}; test accuracy {accuracy:.4f}, macro_f1 {f1:.4f}")


if __name__ == "__main__":
    main()
