"""What a translation or language model writes can be put together again as its texts were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seqkit.decoding import Hypothesis, Search
from seqkit.run import read_config
from seqkit.tasks.language_model.task import LanguageModelTask
from seqkit.tasks.translation.decoding import Translator
from seqkit.tasks.translation.task import TranslationTask
from seqkit.text import TextConfig, Tokenizer
from seqkit.training.transfer import Given, Rows, transfer_weights

PAIRS = [
    ("the man, today", "L'homme d'aujourd'hui : « qu'est-ce que c'est ? »"),
    ("what (a day)!", "¿Qué día (es)? ¡No! 3,50 €/kg"),
    ("the 3-year-old", "Der 3-jährige sagt: „z. B. um 5:30 Uhr“..."),
    ("hello, world", "你好，世界！x"),
    ("tokyo", "「東京タワー」と言った。"),
    ("hindi", "नमस्ते, दुनिया! क्या?"),
    ("arabic", "مرحبا، كيف حالك؟"),
    ("thai", "สวัสดี 'ชาวโลก'ๆ"),
    ('"no"', '"Don\'t", she said -- at 5:30pm a-b ...'),
]
SMALL = {"size": 4}


def translation(folder: Path, **text: Any) -> dict[str, Any]:
    for number, side in enumerate(("source", "target")):
        (folder / side).write_text("".join(f"{pair[number]}\n" for pair in PAIRS), "utf-8")
    part = {side: str(folder / side) for side in ("source", "target")}
    return {
        "task": "translation",
        "data": {"train": part, "dev": part, "batch_size": 4},
        "text": text,
        "model": {
            "source": SMALL,
            "target": SMALL,
            "encoder": {"hidden_size": 4},
            "decoder": {"hidden_size": 4, "attention": "general"},
        },
        "training": {"epochs": 1},
        "decoding": {"max_length": 5},
        "device": "cpu",
    }


def task_for(config: dict[str, Any]) -> TranslationTask:
    made = read_config(config)[0]
    return TranslationTask.create(made)  # type: ignore[arg-type]


def task_for_folder(config: dict[str, Any], folder: Path) -> TranslationTask:
    made = read_config(config)[0]
    return TranslationTask.create(made, folder)  # type: ignore[arg-type]


def reached(task: TranslationTask) -> tuple[str, list[str]]:
    lines = task.report()
    return next(line for line in lines if "joined again" in line), [line for line in lines if "warning" in line]


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"lowercase": True},  # scores compare without case, too
        {"joint": True},
        {"split": "spaces"},
        {"tokenizer": "bpe", "vocab_size": 400},
        {"tokenizer": "unigram", "vocab_size": 200},
        {"tokenizer": "char"},
    ],
    ids=str,
)
def test_joined_references_lose_nothing(tmp_path: Path, text: dict[str, Any]) -> None:
    pytest.importorskip("sacrebleu")
    line, warnings = reached(task_for(translation(tmp_path, **text)))
    whole = "dev references, tokenised and joined again: BLEU 100.0, chrF 100.0"
    assert line == f"{whole}: what a model that is always right reaches"
    assert not warnings


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    for text in ({"mark_joined": False}, {"strip_accents": True}):
        scoring = {"tokenize": "13a"}  # the one that fits these scripts splits at every character, and heeds no space
        line, warnings = reached(task_for({**translation(tmp_path, target=text), "scoring": scoring}))
        assert "BLEU 100" not in line
        assert "lost in tokenising and joining the target, whatever the model learns" in warnings[0]
    # Unknown words are no fault of joining, and are told beside it.
    line, warnings = reached(task_for(translation(tmp_path, target={"min_frequency": 2})))
    assert "; with <unk> for unknown words BLEU " in line


def test_targets_are_marked_and_sources_only_where_one_vocabulary_has_both(tmp_path: Path) -> None:
    task = task_for(translation(tmp_path))
    plain = Tokenizer.train([source for source, _ in PAIRS], TextConfig())
    assert (task.source.fingerprint, task.source.config.marked) == (plain.fingerprint, False)
    assert task.config.text.target.mark_joined is True
    assert "￭homme" in task.target.vocabulary
    joint = task_for(translation(tmp_path, joint=True))
    assert joint.source is joint.target
    assert joint.config.text.source.mark_joined is joint.config.text.target.mark_joined is True
    off = task_for(translation(tmp_path, mark_joined=False))
    assert not any(word.startswith("￭") for word in off.target.vocabulary)


def test_a_run_keeps_its_joining(tmp_path: Path) -> None:
    made = task_for(translation(tmp_path))
    made.save(tmp_path)
    task = TranslationTask.restore(made.config, tmp_path)
    assert task.target.config.marked
    # Resumed with a configuration that names no form, a run keeps that of its tokenizer.
    assert task_for_folder(translation(tmp_path), tmp_path).target.fingerprint == made.target.fingerprint
    old = task_for(translation(tmp_path, mark_joined=False))
    old.save(tmp_path)
    assert task_for_folder(translation(tmp_path), tmp_path).target.fingerprint == old.target.fingerprint
    ids = task.target.encode([PAIRS[0][1]])[0]
    assert task.translator.best([Hypothesis(ids, 0.0, [], None, True)]) == PAIRS[0][1]


@pytest.mark.parametrize(("kind", "vocab_size"), [("word", None), ("bpe", 40)])
def test_a_copied_word_is_joined_where_the_model_says_so(kind: str, vocab_size: int | None) -> None:
    source = Tokenizer.train(["a b (Zoë)"] * 5, TextConfig(tokenizer=kind, vocab_size=vocab_size))
    target = Tokenizer.train(["( x )", "(y)"], TextConfig(mark_joined=True))
    translator = Translator([(None, source)], target, Search(), copy_unknown=True)  # type: ignore[list-item]
    text = "b (Zoë) ￭"
    pieces = source.pieces(text)
    tokens = [piece.strip("▁") for piece in pieces]
    ids = [*map(target.vocabulary.index, ["(", "￭", "<unk>", "￭)"]), target.unk_id, target.unk_id]
    at = [0, 0, tokens.index("Zoë"), 0, tokens.index("b"), tokens.index("￭")]
    weights = nn.functional.one_hot(torch.tensor(at), len(pieces)).float()
    found = translator._one(Hypothesis(ids, -1.0, [-0.1] * 6, weights, True), pieces)
    assert found.text == "(Zoë) b ￭"
    assert found.source_tokens == pieces


def language_model(folder: Path, **text: Any) -> dict[str, Any]:
    (folder / "text").write_text("".join(f"{target}\n" for _, target in PAIRS) * 3, "utf-8")
    return {
        "task": "language_model",
        "data": {"train": str(folder / "text"), "dev": str(folder / "text"), "format": "text", "batch_size": 2},
        "text": text,
        "model": {"embedding": SMALL, "encoder": {"hidden_size": 4}},
        "training": {"epochs": 1},
        "device": "cpu",
    }


def test_a_language_model_writes_texts_as_it_read_them(tmp_path: Path) -> None:
    made = read_config(language_model(tmp_path))[0]
    task = LanguageModelTask.create(made)  # type: ignore[arg-type]
    task.adjust(sample=True, seed=2, max_length=8)
    assert task.tokenizer.config.marked
    prompts = ["L'homme (d'", "  Unbekannt-x", ""]
    for prompt, found in zip(prompts, task.predict(prompts), strict=True):
        begin = prompt.strip()
        assert found.text.startswith(begin)
        rest = "".join(" " * (not token.startswith("￭")) + token.removeprefix("￭") for token in found.tokens)
        assert found.text == (begin + rest).removeprefix(" " * (not begin))


def test_bits_count_the_characters_of_the_text(tmp_path: Path) -> None:
    """Both forms of the tokens predict the same characters, line ends with them."""
    for mark in (True, False):
        made = read_config(language_model(tmp_path, mark_joined=mark))[0]
        task = LanguageModelTask.create(made)  # type: ignore[arg-type]
        text = task.splits["dev"]
        assert text.characters == sum(len(target) + 1 for _, target in PAIRS) * 3
        task.model.eval()
        with torch.no_grad():
            scores = task.evaluate()
        nats = scores["loss"] * text.tokens
        assert scores["bits_per_character"] == pytest.approx(nats / 0.6931471805599453 / text.characters)


def test_rows_match_by_word_where_no_form_matches_by_name() -> None:
    marked, plain = (
        Tokenizer.train(["a-b, c b"], TextConfig(mark_joined=mark, lowercase=True)) for mark in (True, False)
    )
    for here, there in ((marked, plain), (plain, marked), (marked, marked)):
        model = nn.Embedding(len(here), 2)
        weight = torch.arange(len(there) * 2.0).reshape(-1, 2)
        given = Given("x", {"weight": weight}, {"weight": Rows(there.vocabulary, words=True, plain=there.words)})
        transfer_weights(model, given, {"weight": Rows(here.vocabulary, words=True, plain=here.words)})
        for number, (entry, word) in enumerate(zip(here.vocabulary, here.words, strict=True)):
            if entry == "￭" and there is plain:  # new
                continue
            named = entry if entry in there.vocabulary else word if word in there.vocabulary else f"￭{word}"
            assert model.weight[number].tolist() == weight[there.vocabulary.index(named)].tolist()


def test_targets_too_short_for_bleu_lose_nothing_by_joining(tmp_path: Path) -> None:
    """BLEU is 0 there whatever is written, right or wrong: the warning and the line on a score of 0 say why."""
    pytest.importorskip("sacrebleu")
    config = translation(tmp_path)
    (tmp_path / "target").write_text("".join(f"mot{number} deux\n" for number in range(len(PAIRS))), "utf-8")
    task = task_for(config)
    line, (warning,) = reached(task)
    assert "BLEU 0.0, chrF 100.0" in line
    assert "no reference has four" in warning
    assert "lost" not in warning
    assert task.why_zero(["bleu"]) in warning
    assert "not learned enough" in task.why_zero(["accuracy"])


def test_marked_words_that_the_vocabulary_has_no_room_for_cost_nothing(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    rows = ["a homme l'homme homme x", "homme y z homme t"] * 6
    config = translation(tmp_path, target={"vocab_size": 7})
    for side in ("source", "target"):
        (tmp_path / side).write_text("".join(f"{row}\n" for row in rows), "utf-8")
    line, warnings = reached(task_for(config))
    assert "joined again: BLEU 100.0, chrF 100.0; with <unk>" in line
    assert not warnings
