"""Graphs of ONNX with weights in int8.

ONNX Runtime's own quantiser takes LSTM nodes and matrix products, which then compute in integers. What it passes by
(GRU, RNN and Scan, embeddings, convolutions) keeps its computation in float32 and stores int8: smaller, not faster.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqkit.errors import UserError, require

_EXTRA = "export"
_LEAST = 1024  # elements of a weight that is worth a scale for each of its rows
_LEAST_ROW = 8
_LARGEST = 1 << 31  # bytes of a graph and its weights; protobuf itself takes no more
_COMPUTED = {"DynamicQuantizeLSTM": "LSTM", "MatMulInteger": "matrix product"}


class Quantised(NamedTuple):
    """What became of a graph.

    Attributes:
        before, after: bytes of the file.
        computed: nodes that compute in integers: kind -> how many.
        stored: nodes that compute in float32 with weights stored in int8: kind -> how many.
    """

    before: int
    after: int
    computed: Mapping[str, int]
    stored: Mapping[str, int]

    def __str__(self) -> str:
        def counted(kinds: Mapping[str, int]) -> str:
            return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"

        share = self.after / self.before
        return (
            f"{self.before:,} -> {self.after:,} bytes ({share:.0%}); computed in int8: {counted(self.computed)}; "
            f"stored in int8, computed in float32 (smaller, not faster): {counted(self.stored)}"
        )


def quantise(path: Path, to: Path) -> Quantised:
    """Write a graph with its weights in int8.

    Each row of a weight has a scale of its own. Integers have 7 bits where they are computed with, since products of 8
    bits overflow on processors without VNNI. What comes out of an LSTM or a matrix product in int8 depends a little on
    the other sequences of the batch, whose range the inputs share.

    Args:
        path: a file of ONNX, as `torch.onnx.export` writes it, of less than 2 GiB.
        to: the file to write; it may be `path`. It holds all weights.

    Returns:
        sizes, and which nodes changed.

    Raises:
        UserError: onnx or onnxruntime is not installed; the graph is too large.
    """
    onnx = require("onnx", _EXTRA)
    before = sum(file.stat().st_size for file in (path, path.with_name(path.name + ".data")) if file.exists())
    if before >= _LARGEST:
        raise UserError(f"{path}: {before:,} bytes; int8 takes graphs of less than {_LARGEST:,}")
    with tempfile.TemporaryDirectory() as scratch:
        model = _by_library(path, Path(scratch))
    stored = _Weights(model).store()
    onnx.checker.check_model(model)
    onnx.save(model, str(to))
    kinds = Counter(node.op_type for node in model.graph.node)
    computed = {name: kinds[kind] for kind, name in _COMPUTED.items() if kinds[kind]}
    return Quantised(before, to.stat().st_size, computed, stored)


def _by_library(path: Path, scratch: Path) -> Any:
    """Return the graph after ONNX Runtime's quantiser, which wants weights as they are, not computed from others."""
    runtime, onnx = require("onnxruntime", _EXTRA), require("onnx", _EXTRA)
    quantization = require("onnxruntime.quantization", _EXTRA)
    whole, folded, quantised = (scratch / f"{name}.onnx" for name in ("whole", "folded", "quantised"))
    onnx.save(onnx.load(str(path)), str(whole))  # with what a second file beside it holds
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # folds; nothing of one machine
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    runtime.InferenceSession(str(whole), options, providers=["CPUExecutionProvider"])
    model = onnx.load(str(folded))
    quantization.quant_utils.add_pre_process_metadata(model)
    quantization.quantize_dynamic(
        model, str(quantised), op_types_to_quantize=["LSTM", "MatMul"], per_channel=True, reduce_range=True
    )
    return onnx.load(str(quantised))


class _Weights:
    """Bring the float32 weights that are left in a graph to int8.

    Args:
        model: of onnx; it is changed.
    """

    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx", _EXTRA)
        self.graph = model.graph
        self._lift(self.graph)
        self.values = {value.name: value for value in self.graph.initializer}
        self.new: list[Any] = []

    def _lift(self, graph: Any) -> None:
        """Move large weights out of the bodies of Scan, which run at each step."""
        for inner in _bodies(graph):
            self._lift(inner)
            for value in [value for value in inner.initializer if self._worth_it(value)]:
                name = f"{value.name}_lifted{len(self.graph.initializer)}"  # another body may have the same name
                array = self.onnx.numpy_helper.to_array(value)
                self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, name))
                _rename(inner, value.name, name)
                inner.initializer.remove(value)

    def _worth_it(self, value: Any) -> bool:
        size = int(np.prod(value.dims))
        return (
            value.data_type == self.onnx.TensorProto.FLOAT
            and len(value.dims) > 1
            and size >= _LEAST
            and size // _rows(value.dims)[1] >= _LEAST_ROW
        )

    def store(self) -> dict[str, int]:
        """Bring every large weight that is left to int8.

        Returns:
            kind -> how many nodes read one.
        """
        stored: dict[str, str] = {}
        outputs = {one.name for one in self.graph.output}
        for value in [value for value in self.graph.initializer if self._worth_it(value)]:
            integers, scales = self._twin(value) or self._quantised(value)
            left = value.name in outputs
            for node in list(self.graph.node):
                if not _reads(node, value.name):
                    continue
                stored[node.output[0]] = node.op_type
                axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
                plain = node.op_type == "Gather" and node.input[0] == value.name and len(value.dims) == 2
                if plain and axis == 0:
                    self._gather(node, integers, scales)
                else:
                    left = True
            if left:
                self._dequantise(value, integers, scales)
            self.graph.initializer.remove(value)
        nodes = [*self.new, *self.graph.node]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        for value in [value for value in self.graph.initializer if value.name.endswith("_scales")]:
            if value.name not in read:
                self.graph.initializer.remove(value)
        return dict(Counter(stored.values()))

    def _quantised(self, value: Any) -> tuple[str, str]:
        """Store a weight in int8, with a scale for each row; return the names of both."""
        array = self.onnx.numpy_helper.to_array(value)
        axis, rows = _rows(array.shape)
        scales = np.abs(np.moveaxis(array, axis, 0).reshape(rows, -1)).max(1).astype(np.float32) / 127
        scales[scales == 0] = 1.0
        shape = [1] * array.ndim
        shape[axis] = rows
        integers = np.rint(array / scales.reshape(shape)).astype(np.int8)
        return self._add(f"{value.name}_int8", integers), self._add(f"{value.name}_scales", scales)

    def _twin(self, value: Any) -> tuple[str, str] | None:
        """Return integers and scales that the library has made of the same weight, turned: tied embeddings."""
        if len(value.dims) != 2:
            return None
        array = self.onnx.numpy_helper.to_array(value)
        for name, other in self.values.items():
            scales = self.values.get(name.removesuffix("_quantized") + "_scale")
            if other.data_type != self.onnx.TensorProto.INT8 or list(other.dims) != list(value.dims)[::-1]:
                continue
            if scales is None or list(scales.dims) != [len(array)]:
                continue
            scale = self.onnx.numpy_helper.to_array(scales)[:, None]
            if np.all(np.abs(self.onnx.numpy_helper.to_array(other).T * scale - array) <= 0.51 * scale):
                turned = f"{name}_turned"
                self.new.append(self.onnx.helper.make_node("Transpose", [name], [turned], perm=[1, 0]))
                return turned, scales.name
        return None

    def _gather(self, node: Any, integers: str, scales: str) -> None:
        """Let an embedding look up integers, and turn into float32 only what it has looked up."""
        make, output = self.onnx.helper.make_node, node.output[0]
        place = [other.output[0] for other in self.graph.node].index(output)
        column = self._add(f"{scales}_column", self.onnx.numpy_helper.to_array(self.values[scales])[:, None])
        nodes = [
            make("Gather", [integers, node.input[1]], [f"{output}_int8"], axis=0),
            make("Gather", [column, node.input[1]], [f"{output}_scales"], axis=0),
            make("Cast", [f"{output}_int8"], [f"{output}_cast"], to=self.onnx.TensorProto.FLOAT),
            make("Mul", [f"{output}_cast", f"{output}_scales"], [output]),
        ]
        del self.graph.node[place]
        for offset, new in enumerate(nodes):
            self.graph.node.insert(place + offset, new)

    def _dequantise(self, value: Any, integers: str, scales: str) -> None:
        """Put the weight behind DequantizeLinear, under its name."""
        axis, _ = _rows(value.dims)
        make = self.onnx.helper.make_node
        self.new.append(make("DequantizeLinear", [integers, scales], [value.name], axis=axis))

    def _add(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.values:
            value = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
            self.graph.initializer.append(value)
            self.values[name] = value
        return name


def _rows(shape: Any) -> tuple[int, int]:
    """Return the axis that has a scale for each of its places, and its size."""
    axis = next(place for place, size in enumerate(shape) if size > 1 or place == len(shape) - 1)
    return axis, int(shape[axis])


def _bodies(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g


def _reads(node: Any, name: str) -> bool:
    """Return whether a node reads a value, or the body of the node does."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return name in node.input or any(_reads(each, name) for body in inner for each in body.node)


def _rename(graph: Any, name: str, new: str) -> None:
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = new
    for inner in _bodies(graph):
        _rename(inner, name, new)
