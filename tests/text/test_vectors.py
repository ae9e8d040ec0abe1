"""Pretrained vectors against a parser of five lines."""

import gzip
import os
import time
from pathlib import Path

import pytest
import torch

from seqkit.errors import UserError
from seqkit.text import SPECIAL_TOKENS, load_vectors

LINES = ["the 0.5 -1.25 3e-2", "Cat 1 2 3", "dog -4 5.5 6", "été 7 8 9", ", 0.1 0.2 0.3"]
VOCABULARY = [*SPECIAL_TOKENS, "The", "the", "cat", "Cat", "DOG", "été", ",", "bird", "fish"]


def write(path: Path, lines: list[str] | bytes) -> Path:
    data = lines if isinstance(lines, bytes) else "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def plain(lines: list[str]) -> dict[str, list[float]]:
    return {line.split(" ")[0]: [float(part) for part in line.split(" ")[1:]] for line in lines}


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz"])
@pytest.mark.parametrize(
    "form",
    [
        lambda lines: lines,
        lambda lines: [f"{len(lines)} 3", *lines],
        lambda lines: [line + " " for line in lines],
        lambda lines: [line + "\r" for line in lines],
        lambda lines: [line.replace(" ", "\t") for line in lines],
        lambda lines: ("\ufeff" + "\n".join(lines)).encode(),
    ],
    ids=["glove", "header", "word2vec", "crlf", "tabs", "bom"],
)
def test_rows_are_those_of_the_file(tmp_path: Path, name: str, form) -> None:  # type: ignore[no-untyped-def]
    vectors = load_vectors(write(tmp_path / name, form(LINES)), VOCABULARY)
    known = plain(LINES)
    assert vectors.matrix.dtype == torch.float32
    assert vectors.matrix.shape == (len(VOCABULARY), 3)
    assert vectors.size == 3
    source = {"The": "the", "the": "the", "Cat": "Cat", "DOG": "dog", "été": "été", ",": ","}
    for token, word in source.items():
        row = vectors.matrix[VOCABULARY.index(token)]
        assert torch.equal(row, torch.tensor(known[word], dtype=torch.float32)), token
    assert vectors.found == len(source)
    assert vectors.coverage == len(source) / (len(VOCABULARY) - 4)
    assert not vectors.matrix[0].any()


def test_the_exact_word_beats_its_lower_case_in_any_order(tmp_path: Path) -> None:
    for lines in (["cat 1 1", "Cat 2 2"], ["Cat 2 2", "cat 1 1"]):
        vectors = load_vectors(write(tmp_path / "v.txt", lines), ["<pad>", "Cat", "CAT", "cat"])
        assert vectors.matrix[1:].tolist() == [[2, 2], [1, 1], [1, 1]]


def test_the_first_of_a_word_counts(tmp_path: Path) -> None:
    vectors = load_vectors(write(tmp_path / "v.txt", ["a 1 1", "a 2 2"]), ["<pad>", "a", "A"])
    assert vectors.matrix[1:].tolist() == [[1, 1], [1, 1]]


def test_missing_rows_have_the_spread_of_the_found_and_a_seed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    known = 0.3 * torch.randn(200, 20, generator=generator)
    path = write(tmp_path / "v.txt", [f"w{i} " + " ".join(map(str, row)) for i, row in enumerate(known.tolist())])
    vocabulary = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(200)), *(f"x{i}" for i in range(500))]
    one, same, other = (load_vectors(path, vocabulary, seed=seed).matrix for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one[4:204], other[4:204])
    assert not torch.equal(one[204:], other[204:])
    assert one[204:].std().item() == pytest.approx(known.std().item(), rel=0.05)
    assert one[204:].mean().item() == pytest.approx(0, abs=0.02)
    assert one[1:4].abs().min() > 0
    assert load_vectors(path, vocabulary, padding_index=None).matrix[0].abs().min() > 0


def test_words_with_spaces_in_them(tmp_path: Path) -> None:
    vectors = load_vectors(write(tmp_path / "v.txt", ["a 1 2", ". . . 3 4", "b 5 6"]), ["<pad>", ". . .", "b"])
    assert vectors.matrix[1:].tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2 3\ncat 1 2\n", r":2: 2 numbers; expected 3"),
        (b"the 1 2 3\ncat 1 2 3 4\n", r":2: 4 numbers; expected 3"),
        (b"1 3\nthe 1 2\n", r":2: 2 numbers; expected 3"),
        (b"the 1 2 3\ncat 1 x 3\n", r":2: 'x' is not a finite number"),
        (b"the 1 2 3\ncat 1 nan 3\n", r":2: 'nan' is not a finite number"),
        (b"the 1 2 3\ncat 1 1e99 3\n", r":2: '1e99' is not a finite number"),
        (b"the 1 2 3\ncat  2 3\n", r":2: '' is not a finite number"),
        (b"the 1 2 3\nc\xe9t 1 2 3\n", r":2: not UTF-8 text \(byte 0xe9 at position 1\)"),
        (b"the\n", r":1: expected a word and its numbers"),
        (b"3 2\nthe 1 2\ncat 1 2\n", r"the first line announces 3 vectors, the file holds 2"),
        (b"2 3\n", r"announces 2 vectors, the file holds 0"),
        (b"bird 1 2 3\n", r"holds none of the 3 tokens"),
        (b"", r"the file is empty"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_vectors(path, ["<pad>", "the", "cat"])
    assert str(caught.value).startswith(str(path))


def test_expected_size(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", LINES)
    assert load_vectors(path, VOCABULARY, size=3).size == 3
    with pytest.raises(UserError, match=r"v.txt:1: vectors of 3 numbers; expected 300"):
        load_vectors(path, VOCABULARY, size=300)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "vectors.txt.gz", LINES)
    with pytest.raises(UserError, match=r"no such file; did you mean '.*vectors.txt.gz'"):
        load_vectors(tmp_path / "vector.txt.gz", VOCABULARY)
    with pytest.raises(UserError, match="this is a directory"):
        load_vectors(tmp_path, VOCABULARY)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="damaged gzip file"):
        load_vectors(path, VOCABULARY)


def test_glove_file_of_the_data_folder() -> None:
    folder = os.environ.get("SEQKIT_DATA")
    if not folder:
        pytest.skip("SEQKIT_DATA is not set: the folder with glove.6b.100d.subset.txt.gz")
    path = Path(folder) / "glove.6b.100d.subset.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        known = plain([line.rstrip("\n") for line in file])
    vocabulary = [*SPECIAL_TOKENS, *known, "not-a-word-of-the-file"]
    times = []
    for _ in range(3):
        start = time.process_time()
        vectors = load_vectors(path, vocabulary, size=100)
        times.append(time.process_time() - start)
    assert vectors.found == len(known) == 27_868
    assert torch.equal(vectors.matrix[4:-1], torch.tensor(list(known.values())))
    assert min(times) < 3  # seconds of CPU time; 0.4 on an idle machine
