"""The Triton kernels against the step loop in float64. `test_triton.py` runs this file with TRITON_INTERPRET=1.

A test without an assertion of its own ends in `check` or in a function around it, which makes them.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter

from seqkit.nn.cells import GRUCell, LSTMCell, RNNCell
from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.reference import reference_scan
from seqkit.nn.kernels.triton import launch
from seqkit.nn.kernels.triton.counterparts import triton_kernel
from seqkit.nn.kernels.triton.tiles import Tile

_patch = interpreter._patch_lang_tensor


def _patch_with_index(tensor, scope):
    """Triton 3.6 makes an index from an array with one dimension, which NumPy 2.4 refuses."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_with_index

CELLS = {"lstm": LSTMCell, "gru": GRUCell, "rnn": RNNCell}
VARIANTS = {
    "lstm": [
        {},
        {"bias": False},
        {"peephole": True},
        {"coupled": True},
        {"coupled": True, "peephole": True},
        {"zoneout": 0.3, "zoneout_cell": 0.4},
        {"recurrent_dropout": 0.4},
        {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
        {"weight_drop": 0.4},
        {"cell_clip": 0.1},
        {"cell_activation": "relu", "output_activation": "identity"},
        {"cell_activation": "identity", "output_activation": "sigmoid"},
        {"peephole": True, "coupled": True, "zoneout": 0.2, "zoneout_cell": 0.3, "recurrent_dropout": 0.3},
        {"peephole": True, "cell_clip": 0.2, "zoneout_cell": 0.2, "recurrent_dropout": 0.3,
         "recurrent_dropout_kind": "semeniuta"},
    ],
    "gru": [
        {},
        {"bias": False},
        {"zoneout": 0.3},
        {"recurrent_dropout": 0.4},
        {"zoneout": 0.2, "recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
        {"weight_drop": 0.4},
    ],
    "rnn": [
        {},
        {"bias": False, "nonlinearity": "relu"},
        {"nonlinearity": "identity"},
        {"zoneout": 0.3},
        {"zoneout": 0.3, "recurrent_dropout": 0.4, "nonlinearity": "relu"},
    ],
}  # fmt: skip
NORMED = {
    "lstm": [
        {},
        {"bias": False},
        {"peephole": True, "cell_clip": 0.5},
        {"coupled": True, "zoneout": 0.3, "zoneout_cell": 0.4},
        {"coupled": True, "peephole": True, "recurrent_dropout": 0.4, "output_activation": "sigmoid"},
        {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta", "output_activation": "relu"},
    ],
    "gru": [
        {},
        {"bias": False, "recurrent_dropout": 0.4},
        {"zoneout": 0.2, "recurrent_dropout": 0.4, "recurrent_dropout_kind": "semeniuta"},
    ],
    "rnn": [{}, {"bias": False, "nonlinearity": "relu"}, {"zoneout": 0.3, "recurrent_dropout": 0.4}],
}
CASES = [(kind, options) for kind, variants in VARIANTS.items() for options in variants]
NORMED_CASES = [(kind, {"layer_norm": True, **options}) for kind, variants in NORMED.items() for options in variants]
# Largest error, relative to the largest entry where that exceeds one.
BOUNDS = {torch.float32: 3e-6, torch.float16: 2e-2}


@pytest.fixture(autouse=True)
def _nothing_forced():
    yield
    launch.FORCED.mode = launch.FORCED.forward = launch.FORCED.backward = launch.FORCED.precision = None


def results(cell, prepared, packing, x, state, probes, wanted, dtype, through):
    """Outputs, final states and all gradients, computed in dtype."""

    def leaf(value):
        return value.detach().to(dtype).requires_grad_(True)

    def cast(masks):
        return {name: mask.to(dtype) for name, mask in masks.items()}

    x, state = leaf(x), tuple(leaf(part) for part in state)
    weights = {name: leaf(value) for name, value in prepared.weights.items()}
    prepared = replace(
        prepared,
        weights=weights,
        sequence_masks=cast(prepared.sequence_masks),
        step_masks=cast(prepared.step_masks),
    )
    if through == "reference":
        output, final = reference_scan(cell, cell.project(x, prepared), packing.batch_sizes, state, prepared)
    else:
        output, final = kernel_scan(cell, triton_kernel(cell.kernel()), x, packing, state, prepared)
    found = [output, *final]
    pairs = [(one, probe.to(dtype)) for one, probe, want in zip(found, probes, wanted, strict=True) if want]
    leaves = [x, *state, *weights.values()]
    grads = torch.autograd.grad([one for one, _ in pairs], leaves, [probe for _, probe in pairs], allow_unused=True)
    return [*found, *(torch.zeros(()) if grad is None else grad for grad in grads)]


def check(kind, options, size, steps, lengths, *, training=True, wanted=None, dtype=torch.float32, inputs=3):
    torch.manual_seed(steps * 100 + size)
    batch = len(lengths)
    cell = CELLS[kind](inputs, size, dtype=torch.float64, **options).train(training)
    for value in cell.parameters():
        # Large enough that no gate is in its linear range.
        torch.nn.init.normal_(value, 0.0, 0.6)
    packing = Packing.from_lengths(torch.tensor(lengths), steps, torch.device("cpu"))
    rows = sum(packing.batch_sizes)
    x = torch.randn(rows, inputs, dtype=torch.float64).to(dtype)
    state = [torch.randn(batch, part, dtype=torch.float64).to(dtype) for part in cell.state_sizes]
    prepared = cell.prepare(cell.weights(), packing.batch_sizes)
    prepared = replace(prepared, weights={name: value.to(dtype) for name, value in prepared.weights.items()})
    probes = [torch.randn(rows, size, dtype=torch.float64)]
    probes += [torch.randn(batch, part, dtype=torch.float64) for part in cell.state_sizes]
    wanted = wanted or [True] * len(probes)
    arguments = (cell, prepared, packing, x, state, probes, wanted)
    truth = results(*arguments, torch.float64, "reference")
    for got, want in zip(results(*arguments, dtype, "triton"), truth, strict=True):
        if want.dim() == 0:  # no gradient reaches this one; kernels may say so with zeros
            assert not got.any()
            continue
        assert got.shape == want.shape
        assert got.dtype == dtype
        assert (got - want).abs().max() <= BOUNDS[dtype] * max(1.0, want.abs().max().item())


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_variants(kind, options):
    check(kind, options, 5, 5, [3, 0, 5, 1])


@pytest.mark.parametrize(("kind", "options"), [case for case in CASES if any("zoneout" in key for key in case[1])])
def test_evaluation(kind, options):
    check(kind, options, 5, 3, [3, 1], training=False)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("size", [1, 17, 33])
def test_sizes(kind, size):
    check(kind, {}, size, 2, [2, 2])
    check(kind, {}, size, 3, [0, 3, 1])


@pytest.mark.parametrize("kind", CELLS)
def test_many_rows(kind):
    """More rows than a block has; the last block holds empty sequences only."""
    lengths = [2, 1] * 8 + [3] * 3 + [0] * 20
    check(kind, {}, 5, 3, lengths)
    check(kind, {"recurrent_dropout": 0.3, "zoneout": 0.2}, 5, 3, lengths)
    check(kind, {}, 5, 2, [2] * 18)


@pytest.mark.parametrize("kind", CELLS)
def test_half(kind):
    check(kind, {}, 17, 4, [4, 2, 0], dtype=torch.float16)
    check(kind, {"zoneout": 0.3}, 5, 3, [3, 3], dtype=torch.float16)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_generated(data):
    kind, options = data.draw(st.sampled_from(CASES))
    steps = data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(0, steps), min_size=1, max_size=5).filter(any))
    wanted = data.draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    wanted = wanted if kind == "lstm" else [wanted[0], wanted[1] or not wanted[0]]
    check(kind, options, data.draw(st.sampled_from([2, 5, 8])), steps, lengths, wanted=wanted)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("lengths", [[3] * 17, [3, 1, 0, 2] * 5])
@pytest.mark.parametrize("hold", [False, True])
def test_all_steps_in_one_launch(kind, lengths, hold):
    """With a single unit block no program waits for another, so the interpreter can run it."""
    launch.FORCED.mode = "persistent"
    launch.FORCED.forward = Tile(16, 4, 16, 1, 4, 1, hold)
    launch.FORCED.backward = Tile(16, 16, 16, 1, 4, 1, hold)
    check(kind, {}, 4, 3, lengths)
    check(kind, VARIANTS[kind][-1], 4, 3, lengths)


def _one_process_a_program(start, plan, steps):
    """`launch._persistent` with real concurrency: programs that wait for each other, on shared memory."""
    for value in start.pointers:
        if value is not None:
            value.share_memory_()

    def program(index):
        builder = interpreter.interpreter_builder
        builder.create_get_program_id = lambda axis: interpreter.TensorHandle(
            np.array([index], dtype=np.int32), interpreter.tl.int32
        )
        interpreter.GridExecutor._restore_args_dev = lambda *_: None  # it would copy shared memory onto itself
        start(1, 0, steps, 0)

    forked = multiprocessing.get_context("fork")
    processes = [forked.Process(target=program, args=(index,)) for index in range(plan.row_blocks * plan.unit_blocks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
    assert not late, "the programs wait forever"
    assert all(process.exitcode == 0 for process in processes)
    assert not start.pointers[-1].any(), "the counters are not left at zero"


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("lengths", [[3] * 17, [4, 1, 0, 2] * 5])
def test_programs_wait_for_each_other(kind, lengths, monkeypatch):
    monkeypatch.setattr(launch, "_persistent", _one_process_a_program)
    launch.FORCED.mode = "persistent"
    launch.FORCED.forward = launch.FORCED.backward = Tile(16, 16, 16, 1, 4, 1, False)
    check(kind, VARIANTS[kind][-1], 33, max(lengths), lengths)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(
    "tile",
    [
        Tile(16, 8, 16, 1, 4, 2, False),
        Tile(16, 8, 16, 1, 4, 1, False),
        Tile(32, 16, 32, 2, 4, 1, False),
        Tile(16, 8, 64, 4, 4, 1, False),
        Tile(16, 8, 128, 8, 8, 1, False),
    ],
)
def test_tiles(kind, tile):
    """Products in several pieces, and split over warps."""
    launch.FORCED.forward = launch.FORCED.backward = tile
    check(kind, {}, 37, 3, [3, 1, 2])
    check(kind, {"recurrent_dropout": 0.5}, 37, 2, [2, 2])


@pytest.mark.parametrize("kind", CELLS)
def test_without_gradients(kind):
    cell = CELLS[kind](3, 5)
    packing = Packing.from_lengths(torch.tensor([2, 0, 4]), 4, torch.device("cpu"))
    x, state = torch.randn(6, 3), tuple(torch.randn(3, 5) for _ in cell.state_names)
    with torch.no_grad():
        prepared = cell.prepare(cell.weights(), packing.batch_sizes)
        output, final = kernel_scan(cell, triton_kernel(cell.kernel()), x, packing, state, prepared)
        want, ends = reference_scan(cell, cell.project(x, prepared), packing.batch_sizes, state, prepared)
    for got, expected in zip([output, *final], [want, *ends], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", CELLS)
def test_stretches_of_time(kind):
    """As checkpointing cuts it: every stretch takes and returns the states of all sequences."""
    cell = CELLS[kind](3, 5)
    kernel = triton_kernel(cell.kernel())
    packing = Packing.from_lengths(torch.tensor([2, 0, 4, 1]), 4, torch.device("cpu"))
    x, state = torch.randn(7, 3), tuple(torch.randn(4, 5) for _ in cell.state_names)
    prepared = cell.prepare(cell.weights(), packing.batch_sizes)
    whole, ends = kernel_scan(cell, kernel, x, packing, state, prepared)
    outputs = []
    for part, first, end in packing.chunks(2):
        output, state = kernel_scan(cell, kernel, x[first:end], part, state, prepared.cut(first, end))
        outputs.append(output)
    for got, expected in zip([torch.cat(outputs), *state], [whole, *ends], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_double_backward():
    """Through the step loop, as for every kernel."""
    cell = GRUCell(3, 4)
    packing = Packing.full(2, 2)
    x = torch.randn(4, 3, requires_grad=True)
    prepared = cell.prepare(cell.weights(), packing.batch_sizes)
    output, _ = kernel_scan(cell, triton_kernel(cell.kernel()), x, packing, (torch.zeros(2, 4),), prepared)
    (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.abs().max() > 0


def _one_unit_block(size):
    """All steps in one launch of one program for each row block, which the interpreter can run."""
    launch.FORCED.mode = "persistent"
    launch.FORCED.forward = launch.FORCED.backward = Tile(16, size, 16, 1, 4, 1, False)


@pytest.mark.parametrize(("kind", "options"), NORMED_CASES)
def test_layer_norm(kind, options):
    _one_unit_block(8)
    check(kind, options, 5, 5, [3, 0, 5, 1])
    if "zoneout" in options:
        check(kind, options, 8, 2, [2, 2], training=False)


@pytest.mark.parametrize("kind", CELLS)
def test_layer_norm_with_many_rows(kind):
    _one_unit_block(8)
    check(kind, {"layer_norm": True}, 8, 2, [2] * 18)


@pytest.mark.parametrize("kind", CELLS)
def test_layer_norm_in_half(kind):
    _one_unit_block(8)
    check(kind, {"layer_norm": True}, 8, 4, [4, 2, 0], dtype=torch.float16)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("wanted", [[True, False, False], [False, True, False], [False, True, True]])
def test_layer_norm_with_gradients_of_some_results(kind, wanted):
    _one_unit_block(8)
    check(kind, {"layer_norm": True}, 6, 3, [3, 1], wanted=wanted if kind == "lstm" else wanted[:2])


@pytest.mark.parametrize(("kind", "options"), [NORMED_CASES[0], NORMED_CASES[3], NORMED_CASES[6], NORMED_CASES[-1]])
@pytest.mark.parametrize("lengths", [[3] * 17, [4, 1, 0, 2]])
def test_layer_norm_over_programs(kind, options, lengths, monkeypatch):
    """Statistics that are joined from three programs, the last of which has a single unit."""
    monkeypatch.setattr(launch, "_persistent", _one_process_a_program)
    launch.FORCED.mode = "persistent"
    launch.FORCED.forward = launch.FORCED.backward = Tile(16, 16, 16, 1, 4, 1, False)
    check(kind, options, 33, max(lengths), lengths)


@pytest.mark.parametrize("kind", CELLS)
def test_layer_norm_of_large_means(kind, monkeypatch):
    """Sums with a mean of a thousand times their spread lose no more than the products themselves do."""
    monkeypatch.setattr(launch, "_persistent", _one_process_a_program)
    launch.FORCED.mode = "persistent"
    launch.FORCED.forward = launch.FORCED.backward = Tile(16, 16, 16, 1, 4, 1, False)
    torch.manual_seed(0)
    cell, packing = CELLS[kind](3, 40, layer_norm=True, dtype=torch.float64), Packing.full(1, 2)
    with torch.no_grad():
        cell.weight_hh[:] = cell.weight_hh / 100 + 8
    x, state = torch.zeros(2, 3).double(), tuple(torch.ones(2, 40).double() for _ in cell.state_names)
    found = []
    for dtype in (torch.float32, torch.float64):
        cell.to(dtype)
        prepared = cell.prepare(cell.weights(), [2])
        inputs = (x.to(dtype), packing, tuple(part.to(dtype) for part in state), prepared)
        with torch.no_grad():
            if dtype == torch.float32:
                found.append(kernel_scan(cell, triton_kernel(cell.kernel()), *inputs)[0].double())
            found.append(reference_scan(cell, cell.project(inputs[0], prepared), [2], inputs[2], prepared)[0].double())
    ours, theirs, exact = found
    assert (ours - exact).abs().max() <= 3 * (theirs - exact).abs().max() + 1e-6


@pytest.mark.parametrize("kind", CELLS)
def test_layer_norm_without_one_launch(kind):
    """Where the programs do not fit on the card together, the fused kernel computes."""
    launch.FORCED.mode = "stepwise"
    check(kind, {"layer_norm": True}, 5, 4, [3, 0, 4])


def test_not_served():
    assert triton_kernel(LSTMCell(3, 4, proj_size=2).kernel()) is None


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
@pytest.mark.parametrize("shared", [99 * 1024, 227 * 1024])
def test_tuning(itemsize, precision, shared):
    """Every size gets a tile that the kernels can run, and whose programs fit on the card where any could."""
    for batch in (1, 16, 33, 64, 300, 5000):
        for size in (1, 5, 64, 100, 256, 512, 1024, 2048, 4000):
            for terms, slots in ((size, 4), (size, 1), (4 * size, 1), (3 * size, 1)):
                tile = launch.tuning(batch, size, terms, slots, itemsize, precision, 132, shared)
                assert tile.depth // tile.split >= 16
                assert tile.split <= tile.warps
                assert tile.units >= 4
                assert not tile.hold or tile.depth >= terms
                assert tile.programs(batch, size)[1] <= 132
