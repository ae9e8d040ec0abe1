"""English to German: correct sentences checked by eye, one translation for each sentence, lengths."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

import seqkit.data.builtin as builtin
from seqkit.config import read
from seqkit.data.builtin import rows
from seqkit.data.builtin.grammar import Grammar

GOLDEN = {
    "finite verb second": ("the man sleeps .", "der Mann schläft ."),
    "separable verb, feminine possessive": (
        "my sister calls the doctor .", "meine Schwester ruft den Arzt an ."),
    "perfect with participle at the end": (
        "the doctor called my sister yesterday .", "der Arzt hat gestern meine Schwester angerufen ."),
    "perfect with sein, plural": ("the guests arrived .", "die Gäste sind angekommen ."),
    "modal with infinitive at the end": (
        "we want to repair this old bicycle .", "wir wollen dieses alte Fahrrad reparieren ."),
    "fronted adverb, inversion, dative before accusative": (
        "tomorrow she will give the boy a red apple .", "morgen wird sie dem Jungen einen roten Apfel geben ."),
    "kein": ("he does not buy a lamp .", "er kauft keine Lampe ."),
    "kein with a plural": ("I do not need new chairs .", "ich brauche keine neuen Stühle ."),
    "nicht after a definite object": (
        "the student did not find the key .", "der Student hat den Schlüssel nicht gefunden ."),
    "dative verb, weak noun": ("the girl helps the neighbour .", "das Mädchen hilft dem Nachbarn ."),
    "because in front, verb last, then inversion": (
        "because the child gets up , the woman laughs .", "weil das Kind aufsteht , lacht die Frau ."),
    "that-clause with the auxiliary last": (
        "you know that I lost your new umbrella .", "du weißt , dass ich deinen neuen Regenschirm verloren habe ."),
    "whether-clause": ("he asks whether they dance .", "er fragt , ob sie tanzen ."),
    "relative clause with a dative pronoun object": (
        "the actress who trusts you sleeps .", "die Schauspielerin , die dir vertraut , schläft ."),
    "relative pronoun in the dative plural": (
        "the children that we helped sing .", "die Kinder , denen wir geholfen haben , singen ."),
    "relative clause after the right bracket": (
        "the judge saw a man who danced .", "der Richter hat einen Mann gesehen , der getanzt hat ."),
    "question": ("does the uncle pick up the aunts ?", "holt der Onkel die Tanten ab ?"),
    "pronoun object before the adverb": ("he sees me today .", "er sieht mich heute ."),
    "strong adjective in the plural": ("we hide black boxes .", "wir verstecken schwarze Kisten ."),
    "mixed adjective, neuter": ("a small book is useful .", "ein kleines Buch ist nützlich ."),
    "two main clauses": (
        "the queen laughs , but the artist works in the garden .",
        "die Königin lacht , aber der Künstler arbeitet im Garten ."),
    "when in the past": (
        "the teacher laughed when his students came back .",
        "der Lehrer hat gelacht , als seine Studenten zurückgekommen sind ."),
    "separable verb with two objects, weak and mixed endings": (
        "I offer your brothers our old table .", "ich biete deinen Brüdern unseren alten Tisch an ."),
    "modal last in a subordinate clause": ("she hopes that he may stay .", "sie hofft , dass er bleiben darf ."),
    "relative clause after the verb cluster of a subordinate clause": (
        "I know that he saw a boy who laughed .", "ich weiß , dass er einen Jungen gesehen hat , der gelacht hat ."),
    "predicative adjective": ("they were not lazy .", "sie waren nicht faul ."),
    "dative verb with sein": ("the boys followed him .", "die Jungen sind ihm gefolgt ."),
}  # fmt: skip


# Nominative, accusative and dative of noun phrases, from the tables of a school grammar.
DECLENSION = """
the old man         | der alte Mann      | den alten Mann     | dem alten Mann
the old woman       | die alte Frau      | die alte Frau      | der alten Frau
the old child       | das alte Kind      | das alte Kind      | dem alten Kind
the old men         | die alten Männer   | die alten Männer   | den alten Männern
this old man        | dieser alte Mann   | diesen alten Mann  | diesem alten Mann
this old woman      | diese alte Frau    | diese alte Frau    | dieser alten Frau
this old child      | dieses alte Kind   | dieses alte Kind   | diesem alten Kind
these old women     | diese alten Frauen | diese alten Frauen | diesen alten Frauen
an old man          | ein alter Mann     | einen alten Mann   | einem alten Mann
an old woman        | eine alte Frau     | eine alte Frau     | einer alten Frau
an old child        | ein altes Kind     | ein altes Kind     | einem alten Kind
old children        | alte Kinder        | alte Kinder        | alten Kindern
my old man          | mein alter Mann    | meinen alten Mann  | meinem alten Mann
my old woman        | meine alte Frau    | meine alte Frau    | meiner alten Frau
my old child        | mein altes Kind    | mein altes Kind    | meinem alten Kind
my old children     | meine alten Kinder | meine alten Kinder | meinen alten Kindern
the student         | der Student        | den Studenten      | dem Studenten
a boy               | ein Junge          | einen Jungen       | einem Jungen
"""


@pytest.fixture(scope="module")
def tree():
    return read(Path(builtin.__file__).parent / "phrases.yaml").tree


def trimmed(tree, keep, **settings):
    """The grammar with fewer words: those lines of each table for which `keep(category, number, cells)` holds."""
    lexicon = {}
    for category, table in tree["lexicon"].items():
        head, *lines = table.strip().split("\n")
        kept = [
            line
            for number, line in enumerate(lines)
            if keep(category, number, dict(zip(head.split(), line.split(), strict=True)))
        ]
        lexicon[category] = "\n".join([head, *kept])
    return Grammar({**tree, "lexicon": lexicon, "share": 0, "dev": 0, **settings}, "phrases")


@pytest.mark.parametrize("phenomenon", GOLDEN)
def test_golden(tree, phenomenon):
    """The rules with only the words of the sentence derive it, with exactly the German that a person wrote."""
    english, german = GOLDEN[phenomenon]
    forms = ("en", "en.sg", "en.pl", "en.nom", "en.obj", "base", "s", "past", "part", "neg.base", "neg.s")

    def keep(category, number, cells):
        words = {cells[form].replace("_", " ") for form in forms if form in cells}
        return category == "Nothing" or any(f" {word} " in f" {english} " for word in words)

    small = trimmed(tree, keep, limit=len(english.split()))
    found = (row["target"] for row in itertools.islice(small.rows("train"), 100_000) if row["source"] == english)
    assert next(found, "not derived") == german


def test_declension(tree):
    fields = ["en.nom", "np.nom", "np.acc", "np.dat"]
    words = {"old", "man", "woman", "child", "student", "boy", "the", "this", "my"}
    small = trimmed(
        tree,
        lambda category, number, cells: cells.get("en.sg", cells.get("en")) in words,
        start="NP.person",
        columns=dict.fromkeys(fields, "text"),
    )
    derived = {row["en.nom"]: list(row.values()) for row in itertools.islice(small.rows("train"), 5_000)}
    for line in DECLENSION.strip().splitlines():
        wanted = [" ".join(cell.split()) for cell in line.split("|")]
        assert derived[wanted[0]] == wanted


@pytest.mark.parametrize("words", [1, 2])
def test_one_english_sentence_has_one_translation(tree, words):
    """With one or two words a category the sentences collide all the time; all pronouns and articles stay in."""
    small = trimmed(
        tree, lambda category, number, _: number < words or category.startswith(("Pronoun", "Article.other")), limit=12
    )
    translations = {}
    count = 30_000
    for row in itertools.islice(small.rows("train"), count):
        assert translations.setdefault(row["source"], row["target"]) == row["target"]
    assert len(translations) < 0.9 * count  # many collisions, or the test says nothing


def test_lengths_spread_from_four_to_thirty_words():
    lengths = Counter(len(row["source"].split()) for row in itertools.islice(rows("phrases", "test"), 4_000))
    assert min(lengths) <= 4
    assert max(lengths) == 30
    assert all(lengths[length] >= 40 for length in range(6, 31))
