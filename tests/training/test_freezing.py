"""Freezing, gradual unfreezing, rates by layer: against a loop by hand, bit for bit across a resume, bad input."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from seqkit.config import from_mapping
from seqkit.errors import Stopped, UserError
from seqkit.models import Decoder, Embedding, Encoder, LanguageModel, Seq2Seq, Tagger
from seqkit.nn import GRU, LSTM, RNN, Recurrent
from seqkit.training import Loss, Task, Trainer, TrainingConfig
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.freezing import Freezing
from seqkit.training.optim import make_optimizer

GROUPS = [["low.*"], ["middle.*"], ["*"]]


class Net(nn.Module):
    """Three layers, of which `low` and `tied` may share their weight."""

    def __init__(self, dropout: float, tie: bool) -> None:
        super().__init__()
        self.low, self.middle = nn.Linear(6, 6), nn.Linear(6, 6)
        self.top = nn.Linear(6, 1)
        self.dropout = nn.Dropout(dropout)
        if tie:
            self.tied = nn.Linear(6, 6, bias=False)
            self.tied.weight = self.low.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.tanh(self.middle(torch.tanh(self.low(x)))))
        if hasattr(self, "tied"):
            hidden = self.tied(hidden)
        scores: Tensor = self.top(hidden)
        return scores


class Fit(Task):
    """Six batches an epoch."""

    model: Net

    def __init__(self, dropout: float = 0.0, tie: bool = False, groups: Sequence[Sequence[str]] = GROUPS) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(24, 6, generator=generator)
        self.y = torch.randn(24, 1, generator=generator)
        torch.manual_seed(5)
        self.model = Net(dropout, tie)
        self.groups = groups
        self.calls = 0
        self.stop: int | None = None
        self.seen: list[set[str]] = []  # what had a gradient after each update but the last

    def layer_groups(self) -> Sequence[Sequence[str]]:
        return self.groups

    def batches(self, epoch: int, start: int = 0) -> Iterable[Tensor]:
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch))
        return list(order.split(4))[start:]

    def loss(self, batch: Tensor, carry: Any) -> tuple[dict[str, Loss], Any]:
        self.calls += 1
        if self.calls == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen.append({name for name, one in self.model.named_parameters() if one.requires_grad})
        error = self.model(self.x[batch]) - self.y[batch]
        return {"square": Loss(error.pow(2).sum(), float(len(batch)))}, None

    def evaluate(self) -> dict[str, float]:
        return {"loss": float((self.model(self.x) - self.y).pow(2).mean())}


def settings(**tree: Any) -> TrainingConfig:
    return from_mapping({"log_every": 4, **tree}).check(TrainingConfig)


def trainer(task: Task, folder: Path, **tree: Any) -> Trainer:
    return Trainer(task, settings(**tree), folder, device="cpu", seed=7)


def weights(task: Task) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def stages(model: nn.Module, groups: Sequence[Sequence[str]] = GROUPS, **tree: Any) -> list[tuple[int, set[str]]]:
    return [(stage.start, set(stage.names)) for stage in Freezing(model, groups, settings(**tree)).stages]


def test_training_is_that_of_a_loop_by_hand(tmp_path: Path) -> None:
    """AdamW whose groups are added as they are unfrozen, with rates lr x decay^depth x own factor x schedule."""
    decay, lr, total = 0.4, 0.05, 24
    own = {"middle.bias": 0.5}
    task = Fit()
    model = Fit().model
    tree: dict[str, Any] = {
        "epochs": 4,
        "clip_norm": 0.5,
        "unfreeze": {"every": 1},
        "optimizer": {"lr": lr, "weight_decay": 0.1, "layer_decay": decay, "lr_factors": own},
        "schedule": {"name": "linear"},
    }
    job = trainer(task, tmp_path, **tree)
    optimizer: torch.optim.Optimizer | None = None
    layers = [model.top, model.middle, model.low]
    for step in range(total):
        epoch, place = divmod(step, 6)
        if place == 0 and epoch < 3:
            for name, one in layers[epoch].named_parameters():
                full = next(key for key, value in model.named_parameters() if value is one)
                rate = lr * decay**epoch * own.get(full, 1.0)
                group: dict[str, Any] = {
                    "params": [one],
                    "peak": rate,
                    "lr": rate,
                    "weight_decay": 0.0 if "bias" in name else 0.1,
                }
                if optimizer is None:
                    optimizer = torch.optim.AdamW([group])
                else:
                    optimizer.add_param_group(group)
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1 - step / (total - 1))
        trained = [one for group in optimizer.param_groups for one in group["params"]]
        batch = list(task.batches(epoch))[place]
        loss = (model(task.x[batch]) - task.y[batch]).pow(2).mean()
        for one, grad in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            one.grad = grad
        nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
    job.fit()
    last = Checkpoints(job.folder.checkpoints).load(24)[0]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(last[name], value, rtol=1e-5, atol=1e-6)


def test_a_frozen_weight_stays_as_it_was_to_the_bit(tmp_path: Path) -> None:
    """In spite of weight decay, momentum and averages; each stage changes what it has unfrozen."""
    task = Fit()
    begin = weights(task)
    tree = {
        "steps": 9,
        "freeze": ["middle.bias"],
        "unfreeze": {"every": 3, "unit": "steps"},
        "optimizer": {"lr": 0.01, "weight_decay": 0.5},
        "ema": 0.9,
        "checkpoint_every": 1,
        "keep_best": 99,
        "evaluate_every": 1,
    }
    job = trainer(task, tmp_path, **tree)
    job.fit()
    whole = set(begin)
    for step in range(1, 10):
        model, saved = Checkpoints(job.folder.checkpoints).load(step)
        trained = {"top.weight", "top.bias"} | ({"middle.weight"} if step > 3 else set())
        trained |= {"low.weight", "low.bias"} if step > 6 else set()
        for found in (model, saved["trained"], saved["average"]["average"]):
            assert {name for name in found if torch.equal(found[name], begin[name])} == set(found) - trained
        assert len(saved["optimizer"]["state"]) == len(trained)
    assert "middle.bias" not in saved["average"]["average"]
    assert task.seen[0] == {"top.weight", "top.bias"}
    assert task.seen[8] == whole - {"middle.bias"}
    assert all(one.requires_grad for one in task.model.parameters()), "the model is left as it was found"


RESUMED = [
    {"epochs": 4, "unfreeze": {"every": 1}, "optimizer": {"layer_decay": 0.4}, "ema": 0.9},
    {"steps": 20, "unfreeze": {"every": 5, "unit": "steps"}, "evaluate_every": 5},
    {
        "epochs": 4,
        "freeze": ["low.bias"],
        "unfreeze": {"stages": [{"at": 0, "train": ["middle*"]}, {"at": 2, "train": ["*"]}]},
    },
]


@pytest.mark.parametrize("tree", RESUMED, ids=["every-epoch", "every-5-steps", "stages"])
@pytest.mark.parametrize("stop", [3, 6, 12, 14])
def test_a_run_stopped_between_stages_ends_as_if_it_had_not(tmp_path: Path, tree: dict[str, Any], stop: int) -> None:
    whole, cut, again = Fit(0.2), Fit(0.2), Fit(0.2)
    trainer(whole, tmp_path / "whole", **tree).fit()
    cut.stop = stop
    with pytest.raises(Stopped):
        trainer(cut, tmp_path / "cut", **tree).fit()
    job = trainer(again, tmp_path / "cut", **tree)
    assert job.restore() in (stop, stop - 1)
    job.fit()
    ends = []
    for name in ("whole", "cut"):
        checkpoints = Checkpoints(tmp_path / name / "checkpoints")
        step = checkpoints.latest()
        assert step is not None
        ends.append((step, *checkpoints.load(step)))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])
    states = [end[2]["optimizer"]["state"] for end in ends]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert all(torch.equal(value, states[1][number][key]) for key, value in state.items())
    assert cut.seen[:stop] + again.seen == whole.seen or cut.seen[: stop - 1] + again.seen == whole.seen
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_each_change_is_said_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(Fit(), tmp_path, epochs=3, unfreeze={"every": 1}, freeze=["low.bias"]).fit()
    said = capsys.readouterr().err
    assert (
        "trained from the start: top.weight, top.bias; 7 of 91 parameters train; the last of 3 stages begins " in said
    )
    assert "stages begins after epoch 2\n" in said
    assert "unfrozen after epoch 1, step 6: middle.weight, middle.bias; 49 of 91 parameters train\n" in said
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [record for record in log if record["split"] == "unfreeze"]
    assert [(one["step"], one["epoch"], one["trained"]) for one in found] == [(0, 0, 7), (6, 1, 49), (12, 2, 85)]
    assert found[2]["unfrozen"] == ["low.weight"]
    assert found[2]["parameters"] == 91


@pytest.mark.parametrize(
    ("length", "unfreeze", "late"),
    [
        ({"epochs": 3}, {"every": 1}, ""),
        ({"epochs": 2}, {"every": 1}, "1 of 3 stages never begin, the first (low.weight) after epoch 2: training ends"),
        ({"steps": 4}, {"every": 2, "unit": "steps"}, "after step 4: training ends after 4 steps"),
        ({"steps": 4}, {"every": 1}, ""),  # in epochs nobody knows beforehand
    ],
)
def test_a_stage_that_never_begins_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: dict[str, Any], unfreeze: dict[str, Any], late: str
) -> None:
    trainer(Fit(), tmp_path, **length, unfreeze=unfreeze, freeze=["low.bias"]).fit()
    said = capsys.readouterr().err
    assert ("never begin" in said) == bool(late)
    assert late in said


def test_an_ordinary_run_says_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(Fit(), tmp_path, steps=2).fit()
    assert "trained from" not in capsys.readouterr().err
    assert "unfreeze" not in (tmp_path / "metrics.jsonl").read_text()


def test_stages_follow_groups_or_patterns() -> None:
    model = Net(0.0, False)
    top, middle, low = ({f"{name}.weight", f"{name}.bias"} for name in ("top", "middle", "low"))
    assert stages(model) == [(0, top | middle | low)]
    assert stages(model, unfreeze={"every": 2}) == [(0, top), (2, middle), (4, low)]
    # A group of which nothing can train is no stage, and what the model itself has frozen stays so.
    assert stages(model, unfreeze={"every": 2}, freeze="middle.*") == [(0, top), (2, low)]
    model.low.requires_grad_(False)
    assert stages(model, unfreeze={"every": 2}) == [(0, top), (2, middle)]
    model.low.requires_grad_(True)
    by_hand = [{"at": 0, "train": ["top*", "low.bias"]}, {"at": 3, "train": ["low*"]}]
    assert stages(model, unfreeze={"stages": by_hand}) == [(0, top | {"low.bias"}), (3, {"low.weight"})]
    freezing = Freezing(model, GROUPS, settings(unfreeze={"stages": by_hand, "unit": "steps"}))
    assert [freezing.stage(9, step) for step in (0, 2, 3, 100)] == [0, 0, 1, 1]
    assert "middle.weight" not in freezing.factors, "no stage names it"


@given(
    starts=st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True).map(sorted),
    order=st.permutations(["low.weight", "low.bias", "middle.weight", "middle.bias", "top.weight"]),
    times=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1),
    unit=st.sampled_from(["epochs", "steps"]),
)
def test_what_trains_depends_on_the_time_alone(
    starts: list[int], order: list[str], times: list[tuple[int, int]], unit: str
) -> None:
    """Whatever was asked before: what is due by then wants a gradient, nothing else does."""
    model = Net(0.0, False)
    schedule: list[dict[str, Any]] = [
        {"at": at, "train": [name]} for at, name in zip([0, *starts], order, strict=False)
    ]
    freezing = Freezing(model, GROUPS, settings(unfreeze={"stages": schedule, "unit": unit}))
    for time in times:
        before = {name for name, one in model.named_parameters() if one.requires_grad}
        changed = freezing.enter(freezing.stage(*time))
        now = time[unit == "steps"]
        found = {name for name, one in model.named_parameters() if one.requires_grad}
        assert changed is (found != before)
        assert found == {name for stage in schedule if stage["at"] <= now for name in stage["train"]}


def test_a_tied_weight_goes_with_the_layer_nearest_the_output() -> None:
    model = Net(0.0, True)
    assert stages(model, unfreeze={"every": 1})[0] == (0, {"top.weight", "top.bias", "low.weight"})
    assert stages(model, freeze=["tied.weight"]) == stages(model, freeze=["low.weight"])
    factors = Freezing(model, GROUPS, settings(optimizer={"layer_decay": 0.5})).factors
    assert (factors["low.weight"], factors["low.bias"], factors["middle.bias"]) == (1.0, 0.25, 0.5)
    with pytest.raises(ValueError, match=r"no group has a pattern for the parameter low\.weight"):
        Freezing(model, [["top*"]], settings())


def test_rates_multiply() -> None:
    config = settings(optimizer={"lr": 0.1, "layer_decay": 0.5, "lr_factors": {"*.bias": 3.0}})
    model = Net(0.0, False)
    optimizer = make_optimizer(model, config.optimizer, Freezing(model, GROUPS, config).factors)
    of = {id(one): group["peak_lr"] for group in optimizer.param_groups for one in group["params"]}
    found = {name: of[id(one)] for name, one in model.named_parameters()}
    expected = {"low.weight": 0.025, "low.bias": 0.075, "middle.weight": 0.05, "middle.bias": 0.15, "top.weight": 0.1}
    assert found == pytest.approx({**expected, "top.bias": 0.3})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"freeze": ["midle.*"]}, r"training\.freeze: 'midle\.\*' matches no weight.*'middle\.\*'"),
        ({"freeze": ["*"]}, "every parameter is frozen"),
        ({"freeze": ["low*", "mid*"], "unfreeze": {"every": 1}}, r"nothing to unfreeze.*\(top\.weight, top\.bias\)"),
        (
            {"unfreeze": {"stages": [{"at": 0, "train": ["top*"]}, {"at": 1, "train": ["bottom*"]}]}},
            r"unfreeze\.stages\.1\.train: 'bottom\*' matches no weight",
        ),
        (
            {"unfreeze": {"stages": [{"at": 0, "train": ["*"]}, {"at": 1, "train": ["low*"]}]}},
            r"stages\.1\.train: low\* adds nothing",
        ),
        (
            {"unfreeze": {"stages": [{"at": 0, "train": ["top*"]}, {"at": 1, "train": ["low*"]}]}, "freeze": ["low*"]},
            "adds nothing: it trains already, or never does",
        ),
        ({"unfreeze": {"stages": [{"at": 1, "train": ["*"]}, {"at": 2, "train": ["*"]}]}}, "the first must be at 0"),
        ({"unfreeze": {"stages": [{"at": 0, "train": ["*"]}]}}, "one alone unfreezes nothing"),
        ({"unfreeze": {"stages": [{"at": 0, "train": ["t*"]}, {"at": 0, "train": ["*"]}]}}, "later time"),
        ({"unfreeze": {"stages": [{"at": 0, "train": []}, {"at": 1, "train": ["*"]}]}}, "train"),
        ({"unfreeze": {}}, "every and stages exclude each other"),
        ({"unfreeze": {"every": 1, "stages": [{"at": 0, "train": ["*"]}]}}, "every and stages exclude each other"),
        ({"optimizer": {"layer_decay": 1.5}}, "layer_decay"),
        ({"freeze": ["low*"], "optimizer": {"lr_factors": {"low*": 0.1}}}, "'low.*' matches no trained parameter"),
    ],
)
def test_contradictions_are_refused_before_training(tmp_path: Path, tree: dict[str, Any], message: str) -> None:
    task = Fit()
    with pytest.raises(UserError, match=message):
        trainer(task, tmp_path, **tree)
    assert all(one.requires_grad for one in task.model.parameters())


@pytest.mark.parametrize("tree", [{"unfreeze": {"every": 1}}, {"optimizer": {"layer_decay": 0.5}}])
def test_a_task_of_one_group_has_no_layers(tmp_path: Path, tree: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="one group of layers"):
        trainer(Fit(groups=[["*"], ["none*"]]), tmp_path, **tree)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own import
def test_a_compiled_model_trains_what_is_unfrozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced and differentiated as always, but without the minute that making machine code takes.
    compiler = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiler(self, backend="aot_eager", **how))
    tree = {"steps": 4, "unfreeze": {"every": 2, "unit": "steps"}, "freeze": ["low*"]}
    plain, compiled = Fit(), Fit()
    trainer(plain, tmp_path / "a", **tree).fit()
    trainer(compiled, tmp_path / "b", compile=True, **tree).fit()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(weights(compiled)["middle.weight"], weights(Fit())["middle.weight"])


CELLS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {},
    "rnn": {},
    "lstm-dropped": {"weight_drop": 0.3},
    "lstm-normed": {"layer_norm": True},
}
KEPT = ["*_l0", "*_l0_reverse", "weight_hh*", "*weight*", "bias_ih_l1"]


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("ragged", [False, True])
def test_frozen_weights_change_no_other_gradient(backend: Any, name: str, ragged: bool) -> None:
    """Every road through the recurrent modules: what is left to train gets the gradient that it has when all train."""
    torch.manual_seed(1)
    kind = {"lstm": LSTM, "gru": GRU, "rnn": RNN}[name.partition("-")[0]]
    options = CELLS[name]
    make = (
        Recurrent(name.partition("-")[0], 5, 4, 2, bidirectional=True, backend=backend, **options)
        if options
        else kind(5, 4, 2, bidirectional=True, backend=backend)
    )
    x = torch.randn(6, 3, 5)
    lengths = torch.tensor([6, 2, 4]) if ragged else None

    def gradients() -> dict[str, Tensor | None]:
        make.zero_grad()
        torch.manual_seed(2)
        output, _ = make(x, lengths=lengths)
        F.mse_loss(output, torch.ones_like(output)).backward()
        return {name: value.grad for name, value in make.named_parameters()}

    everything = gradients()
    for pattern in KEPT:
        freezing = Freezing(make, [["*"]], settings(freeze=[pattern]))
        freezing.hold()
        found = gradients()
        assert {name for name in found if found[name] is not None} == set(freezing.factors)
        assert 0 < len(freezing.factors) < len(found)
        for one in freezing.factors:
            torch.testing.assert_close(found[one], everything[one], rtol=1e-5, atol=1e-7)
        freezing.release()


def _translation(attention: str) -> tuple[nn.Module, Any]:
    encoder = Encoder(Embedding(9, 4), LSTM(4, 4, bidirectional=True, batch_first=True))
    decoder = Decoder(Embedding(9, 4), 8, "lstm", 5, attention=attention, tie="target")
    model = Seq2Seq(encoder, decoder, "linear")
    ids, lengths = torch.randint(1, 9, (3, 5)), torch.tensor([5, 3, 4])
    return model, lambda: model.loss(ids, lengths, ids, ids.flip(1), lengths)[0]


def _language_model(*cutoffs: int) -> tuple[nn.Module, Any]:
    encoder = Encoder(Embedding(9, 4, embedding_dropout=0.2), LSTM(4, 5, 2, batch_first=True, weight_drop=0.3))
    model = LanguageModel(encoder, tie=not cutoffs, adaptive_cutoffs=cutoffs)
    ids = torch.randint(1, 9, (3, 6))
    return model, lambda: model.loss(model(ids[:, :-1]).features, ids[:, 1:])


def _tagger() -> tuple[nn.Module, Any]:
    model = Tagger(Encoder(Embedding(9, 4), Recurrent("gru", 4, 4, bidirectional=True, batch_first=True)), 3, 2)
    ids, lengths = torch.randint(1, 9, (3, 5)), torch.tensor([5, 3, 4])

    def loss() -> Tensor:
        tags, intents = model(ids, lengths)
        return model.tag_loss(tags, ids % 3, lengths) + intents.sum()

    return model, loss


MODELS: dict[str, Any] = {
    "additive": lambda: _translation("bahdanau"),
    "general": lambda: _translation("general"),
    "tied": _language_model,
    "adaptive": lambda: _language_model(5),
    "tagger": _tagger,
}


@pytest.mark.parametrize("name", MODELS)
def test_frozen_parts_of_a_model_change_no_other_gradient(name: str) -> None:
    """The same for decoders, softmaxes and a CRF, whose gradients are derived by hand in part."""
    torch.manual_seed(4)
    model, loss = MODELS[name]()

    def gradients() -> dict[str, Tensor | None]:
        model.zero_grad()
        torch.manual_seed(2)
        loss().backward()
        return {key: value.grad for key, value in model.named_parameters()}

    everything = gradients()
    modules = {key.rpartition(".")[0] for key in everything}
    for pattern in [*(f"{module}.*" for module in modules), "*weight_hh*", "*bias*", "encoder.*"]:
        freezing = Freezing(model, [["*"]], settings(freeze=[pattern]))
        freezing.hold()
        found = gradients()
        for key, grad in found.items():
            if key not in freezing.factors:
                assert grad is None
            elif everything[key] is not None:
                torch.testing.assert_close(grad, everything[key], rtol=1e-5, atol=1e-6)
        freezing.release()
