"""Data sets of the `datasets` library: from a folder, from its cache without a network, and what is wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import ValidationError

from seqkit.data import hub
from seqkit.data.pairs import PairConfig, open_pairs
from seqkit.data.source import SourceConfig
from seqkit.data.sources import open_source
from seqkit.data.tagged import has_intents, open_tagged
from seqkit.errors import UserError

FIELDS: dict[str, type] = {"text": str, "label": str}
LABELS = ["neg", "pos"]
ROWS = {
    "train": [("a good film", 1), ("a dull one", 0), ("warm", 1), ("weak", 0)],
    "validation": [("witty", 1), ("tired", 0)],
    "test": [("bright", -1)],
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_unreachable", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def write(folder: Path, **changed: list[tuple[str, int]]) -> Path:
    """A data set repository: one Parquet file a split."""
    folder.mkdir(exist_ok=True)
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=LABELS))
    for split, rows in {**ROWS, **changed}.items():
        table = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        datasets.Dataset.from_dict(table, features=features).to_parquet(str(folder / f"{split}.parquet"))
    return folder


def cached(folder: Path, cache: Path, name: str, kind: str = "default", sha: str = "0123abcd") -> None:
    """What is left in the cache of `datasets` after a download of `name` from the hub."""
    datasets.load_dataset(str(folder))
    made = next(path for path in cache.parent.glob(f"{folder.name}/*/*/*") if path.is_dir())
    target = cache.parent / name.replace("/", "___") / kind / "0.0.0" / sha
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, target)
    for file in target.glob("*.arrow"):
        file.rename(file.with_name(file.name.replace(folder.name, name.split("/")[-1])))
    info = json.loads((target / "dataset_info.json").read_text())
    info |= {"config_name": kind, "dataset_name": name.split("/")[-1]}
    (target / "dataset_info.json").write_text(json.dumps(info))


def rows(path: str, part: str = "train", fields: dict[str, type] = FIELDS, **options: Any) -> list[tuple[Any, ...]]:
    table = open_source(SourceConfig(path=path, **options), fields, part).dataset
    return list(zip(*(table[name] for name in fields), strict=True))


def named(split: str) -> list[tuple[str, str]]:
    return [(text, LABELS[label]) for text, label in ROWS[split]]


def test_a_folder_with_its_parts_classes_and_rows(tmp_path: Path) -> None:
    write(tmp_path / "films")
    for path in ("hub:./films", f"hub:{tmp_path}/films"):
        assert rows(path) == named("train")
        assert rows(path, "dev") == named("validation")
    assert rows("hub:./films", split="train[:2]+validation[-1:]") == [*named("train")[:2], named("validation")[1]]
    assert rows("hub:./films", limit=3) == named("train")[:3]
    swapped = rows("hub:./films", columns={"text": "label", "label": "text"})
    assert swapped == [(label, text) for text, label in named("train")]
    source = open_source(SourceConfig(path="hub:./films"), FIELDS, "train")
    assert source.place(2) == "hub:./films: row 3"
    assert Path(source.dataset.cache_files[0]["filename"]).is_file()  # mapped, not held


def test_a_changed_folder_is_read_anew_and_an_unchanged_one_is_not(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "films")
    rows("hub:./films")
    (first,) = cache.glob("*.arrow")
    stamp = first.stat().st_mtime_ns
    rows("hub:./films")
    assert first.stat().st_mtime_ns == stamp
    datasets.Dataset.from_dict({"text": ["new"], "label": ["pos"]}).to_parquet(str(folder / "train.parquet"))
    for split in ("validation", "test"):
        (folder / f"{split}.parquet").unlink()
    assert rows("hub:./films") == [("new", "pos")]
    assert not first.exists()  # of another state of the same source


def test_from_the_cache_without_a_network(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "origin")
    cached(folder, cache, "films")
    cached(folder, cache, "someone/films", sha="beef1234")
    (tmp_path / "someone").mkdir()  # the owner's name is none of a data set
    write(folder, train=[("of a later commit", 0)])
    cached(folder, cache, "someone/films", sha="feed5678")
    cached(folder, cache, "suite", kind="films")
    shutil.rmtree(folder)
    assert rows("hub:films") == named("train")
    assert rows("hub:films", "dev") == named("validation")
    for path in ("hub:someone/films", "hub:suite/films"):
        assert rows(path) == [("of a later commit", "neg")]
    assert rows("hub:someone/films", revision="beef") == named("train")
    with pytest.raises(UserError, match=r"revision 'main' is not in the cache \(cached: beef1234, feed5678\)"):
        rows("hub:someone/films", revision="main")
    with pytest.raises(UserError, match=r"^hub:suite/other: cannot be loaded .*'films'"):
        rows("hub:suite/other")


def test_a_named_revision_in_the_cache_of_the_hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(write(tmp_path / "origin"), cache, "someone/films", sha="beef1234")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    references = tmp_path / "hub/datasets--someone--films/refs"
    references.mkdir(parents=True)
    (references / "v1").write_text("beef1234")
    (references / "v2").write_text("f00d")
    assert rows("hub:someone/films", revision="v1") == named("train")
    with pytest.raises(UserError, match="revision 'v2' is not in the cache"):
        rows("hub:someone/films", revision="v2")


@pytest.mark.parametrize(
    ("name", "kind", "path", "names"),
    [("suite", "films", "hub:suite/films", ["suite/films", "suite"]), ("films", "default", "hub:films", ["films"])],
)
def test_the_hub_is_asked_once_if_it_cannot_be_reached(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, path: str, names: list[str]
) -> None:
    cached(write(tmp_path / "origin"), cache, name, kind=kind)
    original, asked = datasets.load_dataset_builder, []

    def builder(name: str, *args: Any, **options: Any) -> Any:
        asked.append((name, datasets.config.HF_HUB_OFFLINE))
        with monkeypatch.context() as patch:
            patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # no test goes to the network
            return original(name, *args, **options)

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    assert rows(path) == named("train")
    assert rows(path, "dev") == named("validation")
    assert asked == [(one, number > 0) for number, one in enumerate([*names, *names])]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_what_is_inside_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = [{"id": n, "translation": {"de": f"Satz {n}", "en": f"sentence {n}"}, "a.b": "x"} for n in range(3)]
    lines.append({"id": 3, "translation": {"de": " ", "en": "blank"}, "a.b": "x"})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"source": "translation.de", "target": "translation.en"}
    config = PairConfig(path="hub:./pairs", columns=columns, on_bad_line="skip")
    source = open_pairs(config, "train")
    assert source.dataset["source"][:] == ["Satz 0", "Satz 1", "Satz 2"]
    assert source.dataset["target"][:] == ["sentence 0", "sentence 1", "sentence 2"]
    assert (source.skipped.lines, source.skipped.first) == (1, "hub:./pairs: row 4: the source is blank")
    assert rows("hub:./pairs", fields={"text": str}, columns={"text": "a.b"}, limit=1) == [("x",)]
    with pytest.raises(UserError, match=r"no column 'translation.ed' .*did you mean 'translation.e"):
        open_pairs(PairConfig(path="hub:./pairs", columns={**columns, "source": "translation.ed"}), "train")


def test_lists_of_classes_are_tags(tmp_path: Path) -> None:
    names = ["O", "B-PER", "I-PER"]
    features = datasets.Features(
        tokens=[datasets.Value("string")], ner_tags=[datasets.ClassLabel(names=names)], intent=datasets.Value("string")
    )
    table = {
        "tokens": [["Ada", "Lovelace", "wrote"], ["so"]],
        "ner_tags": [[1, 2, 0], [0]],
        "intent": ["tell", "ask"],
    }
    (tmp_path / "ner").mkdir()
    datasets.Dataset.from_dict(table, features=features).to_parquet(str(tmp_path / "ner/train.parquet"))
    config = SourceConfig(path="hub:./ner", columns={"tags": "ner_tags"})
    assert not has_intents(config)
    source = open_tagged(config, "train", intent=False)
    assert source.dataset["tags"][:] == [["B-PER", "I-PER", "O"], ["O"]]
    assert source.dataset["tokens"][:] == table["tokens"]
    config = SourceConfig(path="hub:./ner", columns={"tags": "ner_tags", "intent": "intent"})
    assert has_intents(config)
    assert open_tagged(config, "train", intent=True).dataset["intent"][:] == ["tell", "ask"]


def test_training_on_a_folder_and_resuming_on_another_one(
    tmp_path: Path, cli: Callable[..., Any], generated_data: Path
) -> None:
    text = (generated_data / "sst2/train.tsv").read_text()
    (tmp_path / "films").mkdir()
    (tmp_path / "films/train.csv").write_text(text.replace("\t", ","))
    for part in ("validation", "test"):
        (tmp_path / f"films/{part}.csv").write_text(text.replace("\t", ","))
    (tmp_path / "c.yaml").write_text(
        "task: sentiment\ndata: {train: hub:./films, dev: {path: hub:./films, limit: 20}, batch_size: 60}\n"
        "model: {embedding: {size: 8}, encoder: {hidden_size: 8}}\ntraining: {epochs: 1}\n"
    )
    done = cli(tmp_path, "train", "c.yaml", "name=first", "device=cpu")
    assert done.returncode == 0, done.stderr
    done = cli(tmp_path, "evaluate", "runs/first", "--data", "hub:./films")
    assert done.returncode == 0, done.stderr
    assert b"accuracy" in done.stdout
    (tmp_path / "films/train.csv").write_text("label,text\npositive,other\nnegative,words\n")
    done = cli(tmp_path, "resume", "runs/first", "training.epochs=2")
    assert done.returncode == 2
    assert b"data" in done.stderr
    assert b"Traceback" not in done.stderr


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "column": ({"columns": {"text": "txt"}}, r"^hub:./films: no column 'txt' \(columns: text, label\); did you mean"),
    "split": ({"split": "dev"}, r"^hub:./films: no split 'dev' \(splits: train, validation, test\)"),
    "slice": ({"split": "train[:x]"}, r"^hub:./films: the split 'train\[:x\]' cannot be read"),
    "no label": ({"split": "test"}, r"^hub:./films: row 1: 'label': -1 is not a class \(classes: neg, pos\)"),
    "folder": ({"path": "hub:./flims"}, r"^hub:./flims: no such folder: flims"),
    "configuration": ({"path": "hub:./card/three"}, r"^hub:./card/three: cannot be loaded .*'one', 'two'"),
    "shadow": ({"path": "hub:films"}, r"^hub:films: there is also a folder films here; write hub:./films"),
    "shadow of three": ({"path": "hub:films/deep/one"}, r"^hub:films/deep/one: there is also a folder films/deep here"),
    "revision of a folder": ({"revision": "main"}, "^hub:./films: a folder has no revision"),
    "no home": ({"path": "hub:~nobody-is-so-called/x"}, "no such folder: ~nobody-is-so-called/x"),
    "a kind of files": ({"path": "hub:json"}, "^hub:json: json is a file format"),
    "form": ({"path": "hub:a/b/c/d"}, "^hub:a/b/c/d: expected hub:NAME, hub:OWNER/NAME"),
    "way out": ({"path": "hub:a/../../b"}, "^hub:a/../../b: expected hub:NAME"),
    "empty": ({"path": "hub:"}, "^hub:: expected hub:NAME"),
    "not cached": (
        {"path": "hub:imdb"},
        r"^hub:imdb: not in the cache .*HF_HUB_OFFLINE is set.*load_dataset\('imdb'\)",
    ),
    "neither": ({"path": "hub:a/b"}, r"load_dataset\('a/b'\) or load_dataset\('a', 'b'\)"),
    "program": ({"path": "hub:./code"}, "^hub:./code: this data set is a program, which is never run"),
    "damaged": ({"path": "hub:./broken"}, "^hub:./broken: cannot be loaded"),
    "no data": ({"path": "hub:./nothing"}, "^hub:./nothing: cannot be loaded"),
    "no dev part": ({"path": "hub:./card/one", "part": "dev"}, "no split called dev; .* to one of train"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(tmp_path / "films")
    files = {
        "films/deep/notes.md": "",
        "card/README.md": "---\nconfigs:\n- config_name: one\n  data_files: a.csv\n- config_name: two\n"
        "  data_files: b.csv\n---\n",
        "card/a.csv": "text,label\nx,y\n",
        "card/b.csv": "text,label\nx,y\n",
        "code/code.py": "raise SystemExit('ran')\n",
        "broken/train.parquet": "PAR1 no",
        "nothing/notes.md": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        rows(**{"path": "hub:./films", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "hub:imdb", "format": "csv"}, "format: hub:NAME has none"),
        ({"path": "hub:imdb", "seed": 1}, "seed: only builtin: data have one"),
        ({"path": "hub:imdb", "root": "."}, "root: only torchtext: data have one"),
        ({"path": "a.tsv", "split": "train"}, "split: only hub: and torchtext: data have one"),
        ({"path": "a.tsv", "revision": "main"}, "revision: only hub: data have one"),
        ({"path": "hub:imdb", "split": ""}, "at least 1 character"),
    ],
)
def test_keys_of_other_sources_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceConfig(**options)
