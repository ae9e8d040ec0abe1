"""Times one example at a time: seqkit beside plain torch in one run; prints a table of medians.

    SEQKIT_DATA=/folder/of/the/data python scripts/bench/latency.py          # about 3 minutes
    python scripts/bench/latency.py --clock cpu --rounds 30                  # on a machine that others use

predict    one text through `predict` of a sentiment and a slots run of one update (shipped configurations), from
           text to a typed prediction; the peer of sentiment is a split at spaces, a dict, an embedding, nn.LSTM,
           maximum and linear layer of the same sizes
token      one token through a language model of one layer, embedding to logits, state carried
translate  one sentence through the models of `scripts/bench/translation.py`, untrained, with the same weights on both
           sides: greedy and a beam of 5
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import CONFIGS, goal, in_turn, parser_for, setting, write
from bench.translation import our_decode
from bench.translation_sides import copy_weights, ours, read_data
from peers import translation as peer

SHIPPED = {"sentiment": "sentiment/quickstart.yaml", "slots": "slots/travel.yaml"}
LONGEST = 15
TEXT = "the film is far from brilliant and the plot is anything but new ."


class Peer(nn.Module):
    """A sentiment classifier as one would write it in torch alone, of an encoder's sizes."""

    def __init__(self, words: list[str], like: Any, size: int, classes: int) -> None:
        super().__init__()
        self.numbers = {word: number for number, word in enumerate(words)}
        self.table = nn.Embedding(len(words), size)
        options = {"num_layers": like.num_layers, "bidirectional": like.bidirectional, "batch_first": True}
        self.rnn = nn.LSTM(size, like.hidden_size, **options)
        self.output = nn.Linear(like.output_size, classes)

    @torch.inference_mode()
    def predict(self, text: str) -> list[float]:
        ids = torch.tensor([[self.numbers.get(word, 1) for word in text.split()]])
        shares: list[float] = self.output(self.rnn(self.table(ids))[0].amax(1)).softmax(1)[0].tolist()
        return shares


def quick_run(task: str, folder: str) -> Any:
    """A shipped configuration after one update, loaded."""
    import seqkit

    changes = [f"name={task}", "training.epochs=null", "training.steps=1"]
    run = seqkit.train(str(CONFIGS / SHIPPED[task]), *changes, root=folder)
    return seqkit.load(run.folder, device="cpu")


def bench_predict(folder: str) -> dict[str, dict[str, Callable[[], object]]]:
    """From text to a prediction."""
    found = {}
    for task in ("sentiment", "slots"):
        used = quick_run(task, folder)
        found[f"predict, {task}"] = {"ours": partial(used.predict, [TEXT])}
        if task == "sentiment":
            encoder = used.model.encoder
            theirs = Peer(used.tokenizer.vocabulary, encoder.recurrent, encoder.embedding.size, len(used.classes))
            found[f"predict, {task}"]["peer"] = partial(theirs.eval().predict, TEXT)
    return found


def bench_token(words: int = 10_000, size: int = 256) -> dict[str, Callable[[], object]]:
    """From a token to the scores of the next one."""
    from seqkit.models import Embedding, Encoder, LanguageModel
    from seqkit.nn import LSTM

    model = LanguageModel(Encoder(Embedding(words, size), LSTM(size, size, batch_first=True)), tie=False).eval()
    table, rnn, output = nn.Embedding(words, size), nn.LSTM(size, size, batch_first=True), nn.Linear(size, words)
    token, state = torch.tensor([[7]]), (torch.zeros(1, 1, size), torch.zeros(1, 1, size))

    @torch.inference_mode()
    def ours() -> None:
        model.scores(model(token, state).features)

    @torch.inference_mode()
    def theirs() -> None:
        output(rnn(table(token), state)[0])

    return {"ours": ours, "peer": theirs}


def bench_translate() -> dict[str, dict[str, Callable[[], object]]]:
    """From a source to the best translation, as ids."""
    from seqkit.decoding import Search

    _, test, words, _ = read_data()
    torch.manual_seed(1)
    theirs, _ = peer.build(*words, True)
    with torch.no_grad():  # untrained, both sides are to take the same steps: LONGEST of them, of words alone
        theirs.output.bias[[peer.PAD, peer.BOS, peer.EOS]] = -1e4
    mine = ours(words, True).eval()
    copy_weights(theirs.eval(), mine)
    source, lengths = test[0][0].unsqueeze(0), torch.tensor([len(test[0][0])])
    found = {}
    for width in (1, 5):
        decode = partial(peer.greedy, theirs) if width == 1 else partial(peer.beam, theirs, width=width)
        search = Search(beam_size=width, max_length=LONGEST)
        found[f"translate, beam {width}"] = {
            "ours": partial(our_decode, mine, search, source, lengths),
            "peer": partial(decode, source=source, lengths=lengths, max_length=LONGEST),
        }
    return found


def main() -> None:
    parser = parser_for(__doc__, rounds=40, clock=True)
    parser.add_argument("--only", nargs="*", choices=["predict", "token", "translate"])
    args = parser.parse_args()
    wanted = args.only or ["predict", "token", "translate"]
    about, rows, goals = setting(args), [], []
    cases: dict[str, dict[str, Callable[[], object]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "predict" in wanted:
            cases |= bench_predict(folder)
        if "token" in wanted:
            cases["token, language model"] = bench_token()
        if "translate" in wanted:
            cases |= bench_translate()
        for name, sides in cases.items():
            times = {
                side: 1e3 * value for side, value in in_turn(sides, args.rounds, clock=args.clock, warmup=5).items()
            }
            share = times["ours"] / times["peer"] if "peer" in times else None
            shown = f" | peer {times['peer']:.3f} ms   x{share:.2f}" if share else " ms"
            print(f"{name}: ours {times['ours']:.3f}{shown}", flush=True)
            rows.append({"what": name, "p50_ms": times, "ratio": share})
            if name.startswith("predict"):
                goals.append(goal(f"{name}, ms", times["ours"], 0.5, most=True))
            elif name.startswith("translate"):
                goals.append(goal(f"{name}, ours / peer", share or 0, 0.8 if "1" in name else 0.5, most=True))
    write(args, about, rows, goals)


if __name__ == "__main__":
    main()
