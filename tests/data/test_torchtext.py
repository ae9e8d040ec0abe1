"""torchtext's data sets out of a local folder, where torchtext loads; and our data as its pipelines take it."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.source import SourceConfig
from seqkit.data.sources import open_source
from seqkit.data.tagged import open_tagged
from seqkit.data.torchtext import COLUMNS, Tuples
from seqkit.errors import UserError
from seqkit.text import foreign

FIELDS: dict[str, type] = {"text": str, "label": str}
REVIEWS = {"pos": ["a good film", "warm"], "neg": ["a dull one", "weak"]}
PAIRS = [("Ein Hund .", "A dog ."), ("Zwei Katzen .", "Two cats .")]
try:
    foreign.load_torchtext()
    WHY = ""
except UserError as error:
    WHY = str(error)
real = pytest.mark.skipif(bool(WHY), reason=WHY or "torchtext is here")


def pack(path: Path, files: dict[str, str]) -> None:
    """An archive as the ones that torchtext downloads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchtext's folder, with small data in the place of large: so the checksums of its archives are not looked at."""
    monkeypatch.setattr("torchdata.datapipes.iter.util.cacheholder._hash_check", lambda *_: True)
    folder = tmp_path / "root"
    texts = {
        f"aclImdb/{split}/{label}/{number}_7.txt": text
        for split in ("train", "test")
        for label, some in REVIEWS.items()
        for number, text in enumerate(some)
    }
    pack(folder / "datasets/IMDB/aclImdb_v1.tar.gz", texts)
    lines = "sentence\tlabel\na good film\t1\na dull one\t0\n"
    test = "index\tsentence\n0\tbright\n"
    parts = {"SST-2/train.tsv": lines, "SST-2/dev.tsv": lines, "SST-2/test.tsv": test}
    pack(folder / "datasets/SST2/SST-2.zip", parts)
    sides = {"de": [pair[0] for pair in PAIRS], "en": [pair[1] for pair in PAIRS]}
    for archive, prefix in (("training", "train"), ("validation", "val")):
        files = {f"{prefix}.{language}": "\n".join(some) + "\n" for language, some in sides.items()}
        pack(folder / f"datasets/Multi30k/{archive}.tar.gz", files)
    chunks = folder / "datasets/CoNLL2000Chunking/train.txt.gz"
    chunks.parent.mkdir()
    chunks.write_bytes(gzip.compress(b"He PRP B-NP\nreckons VBZ B-VP\nthe DT B-NP\ndeficit NN I-NP\n\nNo DT O\n"))
    return folder


def rows(path: str, part: str = "train", fields: dict[str, type] = FIELDS, **options: Any) -> list[tuple[Any, ...]]:
    table = open_source(SourceConfig(path=path, **options), fields, part).dataset
    return list(zip(*(table[name] for name in fields), strict=True))


@real
def test_every_data_set_that_is_named_is_one_of_torchtexts() -> None:
    with foreign.quiet():
        from torchtext.datasets import DATASETS

    assert COLUMNS.keys() <= DATASETS.keys()


@real
@pytest.mark.parametrize("part", ["train", "test"])
def test_reviews_are_unpacked_whole_and_cached(root: Path, part: str, cache: Path) -> None:
    want = {("a good film", "2"), ("warm", "2"), ("a dull one", "1"), ("weak", "1")}
    assert len(rows("torchtext:IMDB", part, root=str(root), limit=1)) == 1  # and all the same all is unpacked
    assert set(rows("torchtext:IMDB", part, root=str(root))) == want
    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("*.arrow")}
    assert set(rows("torchtext:IMDB", part, root=str(root))) == want
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.arrow")} == stamps


@real
def test_splits_columns_and_parts_without_labels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = [("a good film", "1"), ("a dull one", "0")]
    for part in ("train", "dev"):
        assert rows("torchtext:SST2", part, root=str(root)) == want
    assert rows("torchtext:SST2", columns={"text": "0", "label": "1"}, split="dev", root=str(root)) == want
    assert rows("torchtext:SST2", "test", {"text": str}, root=str(root)) == [("bright",)]
    with pytest.raises(UserError, match=r"^torchtext:SST2: row 1: 1 values; expected at least 2"):
        rows("torchtext:SST2", "test", root=str(root))
    (root / "datasets").rename(root.parent / "datasets")
    (root.parent / ".data").mkdir()
    (root.parent / "datasets").rename(root.parent / ".data/datasets")
    monkeypatch.chdir(root.parent)
    assert rows("torchtext:SST2") == want


@real
def test_pairs_and_tags(root: Path) -> None:
    for part in ("train", "dev"):
        source = open_pairs(PairConfig(path="torchtext:Multi30k", root=str(root)), part)
        assert list(zip(source.dataset["source"], source.dataset["target"], strict=True)) == PAIRS
    turned = PairConfig(
        path="torchtext:Multi30k", root=str(root), columns={"source": "target", "target": "source"}, limit=1
    )
    assert open_pairs(turned, "train").dataset["target"][:] == ["Ein Hund ."]
    config = SourceConfig(path="torchtext:CoNLL2000Chunking", root=str(root))
    source = open_tagged(config, "train", intent=False)
    assert source.dataset["tokens"][:] == [["He", "reckons", "the", "deficit"], ["No"]]
    assert source.dataset["tags"][:] == [["B-NP", "B-VP", "B-NP", "I-NP"], ["O"]]


@real
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "torchtext:IMBD"}, "torchtext has no such data set .*; did you mean 'IMDB'"),
        ({"path": "torchtext:AG_NEWS"}, r"no data in .*AG_NEWS; .*AG_NEWS\(root='.*', split='train'\)"),
        ({"split": "dev"}, r"no split 'dev' \(splits: train, test\)"),
        ({"split": "train[:1]"}, r"the split 'train\[:1\]' cannot be read; torchtext knows train, test"),
        ({"part": "dev"}, "no split that is called dev; set data.dev.split to one of train, test"),
        ({"columns": {"text": "txt"}}, r"no column 'txt' \(columns: label, text\); did you mean 'text'"),
        ({"columns": {"text": "2"}}, "no column '2'"),
        ({"path": "torchtext:RTE"}, r"no column 'text' \(columns: 0, 1, ...\); write columns: {text: N}"),
        ({"path": "torchtext:QQP", "split": "train"}, "has no splits"),
    ],
)
def test_bad_input(root: Path, options: dict[str, Any], message: str) -> None:
    pack(root / "datasets/RTE/RTE.zip", {})
    with pytest.raises(UserError, match=message) as caught:
        rows(**{"path": "torchtext:IMDB", "root": str(root), **options})
    assert "\n" not in str(caught.value)


@real
def test_a_damaged_archive_is_not_replaced_from_the_network(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = {path: path.stat().st_size for path in root.rglob("*")}
    for _ in range(2):  # a second time, too: the first leaves no mark of a download for which the second would wait
        with pytest.raises(UserError, match=r"^torchtext:SST2: cannot be read \(ConnectionError: .*missing or damaged"):
            rows("torchtext:SST2", root=str(root))
    assert {path: path.stat().st_size for path in root.rglob("*")} == before


@real
def test_training_with_data_and_tokenizer_of_torchtext(root: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "c.yaml").write_text(
        f"task: sentiment\ndata: {{train: {{path: 'torchtext:IMDB', root: {root}}}, batch_size: 2,\n"
        f"  dev: {{path: 'torchtext:IMDB', root: {root}, split: test}}}}\n"
        "text: {tokenizer: 'torchtext:basic_english'}\n"
        "model: {embedding: {size: 8}, encoder: {hidden_size: 8}}\ntraining: {epochs: 1}\n"
    )
    done = cli(tmp_path, "train", "c.yaml", "name=first", "device=cpu")
    assert done.returncode == 0, done.stderr
    done = cli(tmp_path, "predict", "runs/first", text="A Good film!\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in (b"1", b"2")


@pytest.mark.skipif(not WHY, reason="torchtext is here")
def test_without_torchtext_the_message_says_what_to_do() -> None:
    here = r"this needs torchtext: pip install 'seqkit\[torchtext\]'"  # where torch is the one that it wants
    elsewhere = r"torchtext, whose last version, 0.18.0, .* torch 2.3.x only.*hub:NAME"
    with pytest.raises(UserError, match=here if torch.__version__.startswith("2.3.") else elsewhere):
        rows("torchtext:IMDB")


def test_ours_as_tuples(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text("label\ttext\n" + "".join(f"{n % 2}\ttext {n}\n" for n in range(5)))
    source = open_source(SourceConfig(path=str(tmp_path / "d.tsv")), FIELDS, "train")
    pairs = Tuples(source, ("label", "text"))
    want = [(str(n % 2), f"text {n}") for n in range(5)]
    assert list(pairs) == list(pairs) == want
    assert len(pairs) == 5
    assert list(Tuples(source, ["text"])) == [text for _, text in want]
    assert next(iter(pairs.map(lambda pair: pair[1]).batch(2))) == ["text 0", "text 1"]
    batches = list(DataLoader(pairs, batch_size=2, collate_fn=list))
    assert [pair for batch in batches for pair in batch] == want
    with pytest.raises(KeyError, match="no column 'txt'"):
        Tuples(source, ["txt"])


@real
def test_ours_as_a_map_style_data_set_of_torchtext(tmp_path: Path) -> None:
    from torchtext.data.functional import to_map_style_dataset

    (tmp_path / "d.tsv").write_text("label\ttext\n1\ta\n0\tb\n")
    source = open_source(SourceConfig(path=str(tmp_path / "d.tsv")), FIELDS, "train")
    mapped = to_map_style_dataset(Tuples(source, ("label", "text")))
    assert [mapped[row] for row in range(len(mapped))] == [("1", "a"), ("0", "b")]
