"""Reading: every format and every kind of damage, through the cache and past it."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from seqkit.config import Names
from seqkit.data import readers, sources
from seqkit.data.source import Source, SourceConfig
from seqkit.data.sources import open_source
from seqkit.errors import UserError

FIELDS: dict[str, type] = {"text": str, "label": str}
ROWS = [("a good film", "pos"), ("ein Mädchen, 你好", "neg"), ("says \"no\" 'twice'", "pos")]
TSV = "label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in ROWS)
JSONL = "".join(json.dumps({"text": text, "label": label, "other": 1}) + "\n" for text, label in ROWS)


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load(path: Path | str, fields: dict[str, type] = FIELDS, part: str = "train", **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), **options), fields, part)


def pairs(source: Source) -> list[tuple[str, str]]:
    return list(zip(source.dataset["text"], source.dataset["label"], strict=True))


def as_csv() -> str:
    quoted = [(label, '"' + text.replace('"', '""') + '"') for text, label in ROWS]
    return "label,text\n" + "".join(f"{label},{text}\n" for label, text in quoted)


@pytest.mark.parametrize(("name", "content"), [("d.tsv", TSV), ("d.csv", as_csv()), ("d.jsonl", JSONL)])
@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["cut", "ended"])
def test_every_way_to_write_the_same_rows(
    tmp_path: Path, name: str, content: str, gz: str, bom: str, crlf: bool, last: bool
) -> None:
    content = bom + (content if last else content.rstrip("\n"))
    source = load(write(tmp_path / (name + gz), content.replace("\n", "\r\n") if crlf else content))
    assert pairs(source) == ROWS
    assert source.dataset.column_names == ["text", "label", "_line"]
    first = 1 if name == "d.jsonl" else 2
    assert [source.place(row) for row in range(3)] == [f"{tmp_path / (name + gz)}:{first + row}" for row in range(3)]
    assert (source.skipped.lines, source.skipped.first) == (0, "")


def test_the_dataset_is_memory_mapped_and_remembers_lines_when_shuffled(tmp_path: Path, cache: Path) -> None:
    source = load(write(tmp_path / "d.tsv", TSV))
    assert [Path(file["filename"]).parent for file in source.dataset.cache_files] == [cache]
    assert sorted(source.dataset.shuffle(seed=1)["_line"]) == [2, 3, 4]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    table = pa.table(
        {
            "other": [1.5, 2.5, 3.5],
            "text": pa.array([text for text, _ in ROWS], pa.large_string()),
            "label": pa.array([0, 1, 0]),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "tags": [["A", "B"], [], ["C"]],
        }
    )
    pq.write_table(table, path, row_group_size=2)
    source = load(path, {"text": str, "label": str, "kind": str, "tags": list})
    assert source.dataset["text"][:] == [text for text, _ in ROWS]
    assert source.dataset["label"][:] == ["0", "1", "0"]
    assert source.dataset["kind"][:] == ["x", "y", "x"]
    assert source.dataset["tags"][:] == [["A", "B"], [], ["C"]]
    assert source.place(2) == f"{path}: row 3"
    with pytest.raises(UserError, match=r"d.parquet: row 1: 'other': expected text, got 1.5"):
        load(path, {"other": str})
    with pytest.raises(UserError, match=r"parquet: no column 'texts' \(columns: other, text, .*; did you mean 'text'"):
        load(path, {"texts": str})
    write(path, b"PAR1 not really")
    with pytest.raises(UserError, match=r"d.parquet: not a readable Parquet file"):
        load(path)
    pq.write_table(pa.table({"label": ["a"]}), path, store_schema=False)
    write(path, path.read_bytes().replace(b"label", b"la\xf5el"))
    with pytest.raises(UserError, match=r"d.parquet: not a readable Parquet file \('utf-8'"):
        load(path, {"label": str})


def test_text_keeps_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "train.de", "eins zwei\r\n\n  drei \n")
    source = load(path, {"source": str}, format="text")
    assert source.dataset["source"][:] == ["eins zwei", "", "  drei "]
    assert source.place(2) == f"{path}:3"
    assert load(path, {"tokens": list}, format="text").dataset["tokens"][:] == [["eins", "zwei"], [], ["drei"]]
    with pytest.raises(UserError, match="a plain text file has one column; needed: text, label"):
        load(path, format="text")
    with pytest.raises(UserError, match=r"train.de: the name does not tell the format .* set format: to one of"):
        load(path, {"source": str})


def test_lists(tmp_path: Path) -> None:
    row = {"tokens": ["play", "a song"], "tags": ["O", "B-x"], "intent": "Play", "n": 3}
    path = write(tmp_path / "d.jsonl", json.dumps(row) + "\n\n" + json.dumps(row))
    source = load(path, {"tokens": list, "tags": list, "intent": str, "n": str})
    assert source.dataset[1] == {**row, "n": "3", "_line": 3}
    path = write(tmp_path / "d.tsv", "tokens\ttags\nplay  it\tO B-x\n")
    assert load(path, {"tokens": list, "tags": list}).dataset[0]["tokens"] == ["play", "it"]


def test_columns_are_renamed_and_others_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tsv", "id\tSentence\tlabel\n1\tgood\tpos\n")
    source = load(path, columns={"text": "Sentence"})
    assert source.dataset[0] == {"text": "good", "label": "pos", "_line": 2}
    both = load(path, {"source": str, "target": str}, columns={"source": "label", "target": "label"})
    assert both.dataset[0] == {"source": "pos", "target": "pos", "_line": 2}
    with pytest.raises(UserError, match=r"data.dev.columns.texts: not a field .*did you mean 'text'"):
        load(path, part="dev", columns={"texts": "Sentence"})


def test_missing_files_and_directories(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", TSV)
    with pytest.raises(UserError, match=r"trian.tsv: no such file; did you mean '.*/train.tsv'\?"):
        load(tmp_path / "trian.tsv")
    with pytest.raises(UserError, match=r"no such file$"):
        load(tmp_path / "absent" / "train.tsv")
    with pytest.raises(UserError, match="this is a directory"):
        load(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "train.tsv" / "x.tsv")
    with pytest.raises(UserError, match="not a regular file"):
        load("/dev/null")


def test_limit_counts_good_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tsv", "text\tlabel\na\tx\nbad\nb\ty\nc\tz\nbad\n")
    source = load(path, limit=2, on_bad_line="skip")
    assert pairs(source) == [("a", "x"), ("b", "y")]
    assert source.skipped.lines == 1
    assert len(load(path, limit=1).dataset) == 1  # the bad line is never reached


def test_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BATCH_ROWS", 7)
    monkeypatch.setattr(sources, "_BATCH_CHARACTERS", 60)
    rows = [("word " * (i % 9 if i < 50 else 0), str(i)) for i in range(100)]
    path = write(tmp_path / "d.tsv", "text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    source = load(path)
    assert pairs(source) == rows
    batches = [batch.to_pydict() for batch in source.dataset.data.to_batches()]
    assert all(len(batch["text"]) <= 7 and sum(map(len, batch["text"][:-1])) < 60 for batch in batches)
    assert any(len(batch["text"]) == 7 for batch in batches)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really read from now on."""
    opened: list[Path] = []
    original = readers.read_lines

    def lines(path: Path, **options: Any) -> Iterator[tuple[int, str, str]]:
        opened.append(path)
        return original(path, **options)

    monkeypatch.setattr(readers, "read_lines", lines)
    return opened


def test_second_use_is_from_the_cache_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d.tsv", TSV)
    opened = counted(monkeypatch)
    assert pairs(load(path)) == pairs(load(path)) == ROWS
    assert len(opened) == 1
    load(path, limit=1)
    load(path, columns={"text": "label"})
    load(path, {"text": list, "label": str})
    assert len(opened) == 4
    files = set(cache.iterdir())
    assert len(files) == 8
    write(path, TSV.replace("good", "fine"))  # as long as before
    os.utime(path, ns=(1, 1))
    assert pairs(load(path))[0] == ("a fine film", "pos")
    assert len(opened) == 5
    assert len(set(cache.iterdir())) == 8  # what belonged to the old file is gone
    write(path, TSV + "pos\tmore\n")
    os.utime(path, ns=(1, 1))
    assert len(load(path).dataset) == 4


@pytest.mark.parametrize("part", ["arrow", "json"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, cache: Path, part: str) -> None:
    path = write(tmp_path / "d.tsv", TSV)
    load(path)
    file = next(cache.glob(f"*.{part}"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert pairs(load(path)) == ROWS


def test_data_are_read_again_when_a_reader_of_the_users_or_its_options_change(tmp_path: Path, cache: Path) -> None:
    path, code = tmp_path / "a.bars", tmp_path / "bars_of_mine.py"
    path.write_text("a|b\n")
    text = """
from seqkit.data import Reader
class Bars(Reader):
    def __init__(self, *, upper: bool = False):
        self.upper = upper
    def read(self, path, columns, form):
        for number, line in enumerate(path.read_text().split("|"), 1):
            yield number, [line.strip().upper() if self.upper else line.strip()]
"""

    def texts(**options: Any) -> list[str]:
        with Names(folders=(tmp_path,)).rule():
            form = {"name": "bars_of_mine:Bars", **options}
            config = SourceConfig.model_validate({"path": str(path), "format": form})
            return list(open_source(config, {"text": str}, "train").dataset["text"])

    code.write_text(text)
    assert texts() == ["a", "b"]
    assert texts(upper=True) == ["A", "B"]
    code.write_text(text.replace("else line.strip()", "else line.strip() + '!'"))
    for name in [name for name in sys.modules if name.endswith("bars_of_mine")]:
        del sys.modules[name]
    assert texts() == ["a!", "b!"]


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, cache: Path) -> None:
    """As `cp --preserve`, or an editor that puts the time back, makes it."""
    path = write(tmp_path / "d.tsv", TSV)
    before = path.stat()
    assert pairs(load(path)) == ROWS
    path.write_text(TSV.replace("pos\ta good", "neg\ta good"), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert pairs(load(path))[0] == ("a good film", "neg")


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d.tsv", TSV + "bad\n")
    cache.parent.write_text("a file where the folder should be")
    source = load(path, on_bad_line="skip")
    assert pairs(source) == ROWS
    assert source.skipped.lines == 1
    assert source.dataset.cache_files == []
    assert "read into memory; the cache" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.tsv", TSV)

    def fdopen(handle: int, *_: object, **__: object) -> Any:
        os.close(handle)
        return Path("/dev/full").open("wb")

    monkeypatch.setattr("seqkit.data.cache.os.fdopen", fdopen)
    with pytest.raises(UserError, match=r"d.tsv: cannot be cached in .*\(the disk is full\); set HF_DATASETS_CACHE"):
        load(path)
    assert not list(cache.iterdir())


def test_builtin_data(tmp_path: Path) -> None:
    from seqkit.data import builtin

    for name in builtin.NAMES:
        first = next(iter(builtin.rows(name, "dev")))
        fields = {column: type(first[column]) for column in builtin.columns(name)}
        source = load(f"builtin:{name}", fields, part="dev", limit=20)
        rows = list(islice(builtin.rows(name, "dev"), 20))
        assert [{key: row[key] for key in fields} for row in source.dataset] == rows
        assert source.place(3) == f"builtin:{name}: row 4"
        other = load(f"builtin:{name}", fields, part="dev", limit=20, seed=7)
        assert list(other.dataset.remove_columns("_line")) == list(islice(builtin.rows(name, "dev", seed=7), 20))
    assert len(load("builtin:reviews", part="test").dataset) == 1000
    with pytest.raises(UserError, match=r"reviews: no column 'texts' \(columns: text, label\); did you mean 'text'"):
        load("builtin:reviews", {"texts": str})
    with pytest.raises(UserError, match=r"did you mean 'reviews'"):
        load("builtin:review")


def test_the_schema() -> None:
    assert SourceConfig.model_validate("a.tsv") == SourceConfig(path="a.tsv")
    for wrong in (
        {"path": "a.tsv", "limit": 0},
        {"path": ""},
        {"path": "a.tsv", "format": "xml"},
        {"path": "a.tsv", "on_bad_line": "ignore"},
        {"path": "a.tsv", "seed": 1},
        {"path": "builtin:reviews", "format": "tsv"},
        {"path": "a.tsv", "colums": {}},
        {"path": 3},
        {},
    ):
        with pytest.raises(ValidationError):
            SourceConfig.model_validate(wrong)


def test_importing_stays_light_and_reading_stays_silent(tmp_path: Path) -> None:
    path = write(tmp_path / "d.tsv", TSV)
    code = (
        "import sys, seqkit.text, seqkit.data.sources as s\n"
        "heavy = {'datasets', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"print(len(s.open_source(s.SourceConfig(path={str(path)!r}), {{'text': str, 'label': str}}, 'train').dataset))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HF_DATASETS_CACHE": str(tmp_path / "other"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
