"""Small ONNX models by name, with the outputs of ONNX Runtime: what the scripts that make golden ONNX files share."""
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from integer_hash import uniform

FIRST, LAST = 7, 21
store = {}


def number(name, shape):
    return uniform(name, tuple(shape), 2.0)


def tensor(value):
    """A number, list or array as a tensor of float32 or int64."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array if array.dtype.kind == "b" else array.astype(np.int64)


class Graph:
    """A model under construction; `node` returns the names of its results."""

    def __init__(self, case):
        self.case, self.nodes, self.stored, self.count = case, [], [], 0

    def weight(self, shape, name=None, positive=False):
        name = name or f"w{len(self.stored)}"
        value = number(f"{self.case}/{name}", shape)
        self.stored.append(numpy_helper.from_array(np.abs(value) + np.float32(0.25) if positive else value, name))
        return name

    def constant(self, value):
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(tensor(value), name))
        return name

    def node(self, op, *inputs, results=1, **attributes):
        made = [f"v{self.count + i}" for i in range(results)]
        self.count += results
        self.nodes.append(helper.make_node(op, list(inputs), made, **attributes))
        return made[0] if results == 1 else made


def case(name, opset, shapes, build, dims=None):
    """`build(g, *names)` makes the graph over inputs of `shapes` and returns its results; `dims` are the declared sizes."""
    g = Graph(name)
    inputs = {f"x{i}": shape for i, shape in enumerate(shapes)}
    results = build(g, *inputs)
    results = [results] if isinstance(results, str) else list(results)
    declared = dict(zip(inputs, dims or shapes))
    values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, declared[k]) for k in inputs]
    outputs = [helper.make_empty_tensor_value_info(k) for k in results]
    for output in outputs:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(g.nodes, name, values, outputs, g.stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # As it stands: the runtime's own rewriting is not under test.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = {k: number(f"{name}/{k}", shape) for k, shape in inputs.items()}
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.run(None, data)
    key = f"{name}-{opset}"
    assert f"{key}/model" not in store, key
    store[f"{key}/model"] = np.frombuffer(model.SerializeToString(), np.uint8)
    for k, array in data.items():
        store[f"{key}/in/{k}"] = array
    for k, array in zip(results, given):
        assert array.dtype == np.float32 and np.isfinite(array).all() and array.size > 0, key
        store[f"{key}/out/{k}"] = np.array(array)


def both(name, shapes, build, first=FIRST, last=LAST, **options):
    """The same nodes at the oldest and the newest opset that have them."""
    for opset in dict.fromkeys((first, last)):
        case(name, opset, shapes, build, **options)
