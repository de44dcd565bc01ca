"""Makes tests/golden/qdq.safetensors: one small quantized ONNX model (QuantizeLinear and DequantizeLinear around each
operator) for each pattern that becomes integers, with the outputs of ONNX Runtime, which computes them in float as they stand.
Every sixth model becomes a seed for fuzzing, in fuzz/seeds/onnx.

Needs onnx, onnxruntime, numpy and safetensors. Inputs, weights and models are the same bytes every time.
"""
import pathlib

import numpy as np
from onnx import numpy_helper
from safetensors.numpy import save_file

import onnx_case
from integer_hash import below, bits
from onnx_case import store

ROOT = pathlib.Path(__file__).parents[2]
OUT, SEEDS = ROOT / "tests/golden/qdq.safetensors", ROOT / "fuzz/seeds/onnx"
expected = {}

# No simple ratio, so that no value falls between two bytes.
X = dict(scale=0.0213, zero=120)
Y = dict(scale=0.0517, zero=100)


def scalar(g, value, dtype):
    return stored(g, np.asarray(value, dtype))


def stored(g, array):
    name = f"c{len(g.stored)}"
    g.stored.append(numpy_helper.from_array(array, name))
    return name


def params(g, scale, zero, signed):
    """Scale and zero point; `zero` is that of unsigned bytes."""
    return scalar(g, scale, np.float32), scalar(g, zero - 128 if signed else zero, np.int8 if signed else np.uint8)


def rounded(g, x, scale, zero=128, signed=False):
    """`x` rounded to bytes and back."""
    p = params(g, scale, zero, signed)
    return g.node("DequantizeLinear", g.node("QuantizeLinear", x, *p), *p)


def weight_scales(g, size, scale=0.02):
    """Those of the weight with a scale for each output that is made next."""
    name = f"{g.case}/w{len(g.stored)}"
    return ((1 + bits(name + "/scale", size) % 7) * np.float32(scale / 4)).astype(np.float32)


def weight(g, shape, scale=0.02, channels=True, unsigned=False, zero=0, axis=0):
    """Bytes in -127..127 with a scale for each index along `axis`, or one for all."""
    name = f"{g.case}/w{len(g.stored)}"
    values = (below(name, int(np.prod(shape)), 255) - 127).reshape(shape)
    if channels:
        scales = weight_scales(g, shape[axis], scale)
        zeros = np.zeros(shape[axis])
    else:
        scales, zeros = np.float32(scale), np.asarray(zero)
    if unsigned:
        values, zeros = values + 128 + zero, zeros + 128
    kind = np.uint8 if unsigned else np.int8
    attributes = {"axis": axis} if channels else {}
    bytes_ = stored(g, np.clip(values, *(np.iinfo(kind).min, np.iinfo(kind).max)).astype(kind))
    return g.node("DequantizeLinear", bytes_, stored(g, np.asarray(scales, np.float32)), stored(g, zeros.astype(kind)), **attributes)


def bias(g, size, scale=1e-3, channels=True):
    name = f"{g.case}/b{len(g.stored)}"
    values = (below(name, size, 4001) - 2000).astype(np.int32)
    scales = np.full(size, scale, np.float32) if channels else np.float32(scale)
    attributes = {"axis": 0} if channels else {}
    return g.node("DequantizeLinear", stored(g, values), stored(g, scales), **attributes)


def case(name, ops, shapes, build, close="step", step=Y["scale"], opset=13):
    """`ops`: those of the imported graph, beside what rounds inputs and reads results. `close` says how near outputs are:
    `exact`, within one `step` of the last rounding, or `float`."""
    onnx_case.case(name, opset, shapes, build)
    expected[f"{name}-{opset}"] = f"{close} {step} {ops}"


def convolutions():
    picture = [(1, 6, 7, 9)]

    def conv(shape, after=None, x=X, y=Y, biased=True, weights={}, **a):
        def build(g, name):
            inputs = [rounded(g, name, **x), weight(g, shape, **weights)]
            inputs += [bias(g, shape[0], channels=weights.get("channels", True))] if biased else []
            v = g.node("Conv", *inputs, **a)
            v = after(g, v) if after else v
            return rounded(g, v, **y) if y else v

        return build

    relu = lambda g, v: g.node("Relu", v)
    clip = lambda g, v: g.node("Clip", v, g.constant(0.0), g.constant(6.0))
    pads = [1, 1, 1, 1]

    def both(name, *rest, step=Y["scale"], **options):
        for opset in (13, 21):
            case(name, "QConv", picture, conv(*rest, **options), step=step, opset=opset)

    both("conv", (5, 6, 3, 3), pads=pads)
    case("conv", "QConv", picture, conv((5, 6, 3, 3), pads=pads, weights=dict(channels=False)), opset=10)
    both("conv-relu", (5, 6, 3, 3), relu, pads=pads)
    both("conv-relu-zero", (5, 6, 3, 3), relu, pads=pads, y=dict(scale=0.0517, zero=0))
    both("conv-clip", (5, 6, 1, 1), clip, y=dict(scale=0.03, zero=7), step=0.03)
    both("conv-bare", (5, 6, 3, 3), biased=False, strides=[2, 2])
    both("conv-signed", (5, 6, 3, 3), x=dict(**X, signed=True), y=dict(**Y, signed=True), pads=pads)
    both("conv-depthwise", (6, 1, 3, 3), group=6, pads=[1, 0, 2, 1], strides=[2, 1])
    both("conv-groups", (4, 3, 3, 2), group=2, dilations=[2, 1])
    both("conv-tensor", (5, 6, 3, 3), weights=dict(channels=False))
    both("conv-unsigned-weights", (5, 6, 3, 3), weights=dict(unsigned=True))
    both("conv-unsigned-tensor", (5, 6, 3, 3), weights=dict(unsigned=True, channels=False))
    case("conv-1d", "QConv Reshape", [(2, 4, 11)], conv((6, 4, 3), pads=[1, 2], strides=[2]))
    case("conv-head", "QConv", picture, conv((5, 6, 3, 3), y=None), close="float")
    case("conv-crooked-weights", "Conv", picture, conv((5, 6, 3, 3), weights=dict(channels=False, zero=100)))
    case("conv-table", "QConv Table", picture, conv((5, 6, 1, 1), lambda g, v: g.node("LeakyRelu", rounded(g, v, 0.04, 90), alpha=0.1)))

    def stored_floats(g, x):
        w = stored(g, (below(g.case, 5 * 6 * 9, 255) - 127).astype(np.float32).reshape(5, 6, 3, 3) * np.float32(0.013))
        p = stored(g, np.full(5, 0.013, np.float32)), stored(g, np.zeros(5, np.int8))
        q = g.node("QuantizeLinear", w, *p, axis=0)
        return rounded(g, g.node("Conv", rounded(g, x, **X), g.node("DequantizeLinear", q, *p, axis=0)), **Y)

    case("conv-stored-floats", "QConv", picture, stored_floats)

    def block(g, x):
        a = rounded(g, x, **X)
        v = rounded(g, g.node("Conv", a, weight(g, (6, 6, 3, 3)), bias(g, 6), pads=pads), **Y)
        return rounded(g, g.node("Relu", g.node("Add", v, a)), 0.0417, 0)

    case("residual", "QAdd QConv", picture, block, step=0.0417)

    def unrounded(g, x):
        a = rounded(g, x, **X)
        v = g.node("Conv", a, weight(g, (6, 6, 3, 3)), bias(g, 6), pads=pads)
        return rounded(g, g.node("Relu", g.node("Add", a, v)), 0.0417, 0)

    case("residual-unrounded", "QConv", picture, unrounded, step=0.0417)

    def head(g, x):
        v = rounded(g, g.node("Conv", rounded(g, x, **X), weight(g, (8, 6, 1, 1)), bias(g, 8)), **Y)
        v = rounded(g, g.node("GlobalAveragePool", v), 0.02, 128)
        v = rounded(g, g.node("Flatten", v), 0.02, 128)
        return g.node("Gemm", v, weight(g, (5, 8)), bias(g, 5), transB=1)

    case("head", "QAvgPool QConv Reshape", picture, head, close="float")

    def shared(g, x):
        v = g.node("Conv", rounded(g, x, **X), weight(g, (5, 6, 1, 1)), bias(g, 5))
        return rounded(g, v, **Y), g.node("Sigmoid", v)

    case("read-twice", "QConv Unary", picture, shared, close="float")


def products():
    def gemm(shape, y=Y, **a):
        def build(g, x):
            v = g.node("Gemm", rounded(g, x, **X), weight(g, shape, axis=0 if a.get("transB") else 1), bias(g, 5), **a)
            return rounded(g, v, **y) if y else v

        return build

    rows = [(3, 7)]
    case("gemm", "QConv Reshape", rows, gemm((7, 5)))
    case("gemm-linear", "QConv Reshape", rows, gemm((5, 7), transB=1))
    case("gemm-head", "QConv Reshape", rows, gemm((5, 7), None, transB=1), close="float")

    def matmul(shape, channels=True, added=False):
        def build(g, x):
            x, scales = rounded(g, x, **X), weight_scales(g, shape[1])
            v = g.node("MatMul", x, weight(g, shape, axis=1, channels=channels))
            # In units of the sums, as quantizers have it: no rounding of the bias turns a tie.
            return rounded(g, g.node("Add", v, bias(g, shape[1], scales * np.float32(X["scale"]))) if added else v, **Y)

        return build

    case("matmul", "QConv Reshape", rows, matmul((7, 5)))
    case("matmul-tensor", "QConv Reshape", rows, matmul((7, 5), False))
    case("matmul-bias", "QConv Reshape", rows, matmul((7, 5), added=True))
    case("matmul-tall", "QConv Reshape", [(2, 3, 7)], matmul((7, 5)))
    turned = lambda g, x: rounded(g, g.node("MatMul", rounded(g, x, **X), g.node("Transpose", weight(g, (5, 7)))), **Y)
    case("matmul-turned", "QConv Reshape", rows, turned)
    rows_scaled = lambda g, x: rounded(g, g.node("MatMul", rounded(g, x, **X), weight(g, (7, 5), axis=0)), **Y)
    case("matmul-rows-scaled", "MatMul", rows, rows_scaled)


def pairs():
    two = [(2, 5, 4, 3)] * 2
    a, b = dict(scale=0.02, zero=120), dict(scale=0.013, zero=131)
    join = lambda op, after=None, signed=False: lambda g, x, y: rounded(
        g, (after or (lambda g, v: v))(g, g.node(op, rounded(g, x, **a, signed=signed), rounded(g, y, **b, signed=signed))), **Y, signed=signed)
    case("add", "QAdd", two, join("Add"))
    case("add-relu", "QAdd", two, join("Add", lambda g, v: g.node("Relu", v)))
    case("add-signed", "QAdd", two, join("Add", signed=True), opset=21)
    case("mul", "QMul", two, join("Mul"))
    case("mul-clip", "QMul", two, join("Mul", lambda g, v: g.node("Clip", v, g.constant(-0.5), g.constant(1.5))))
    gate = [(2, 5, 4, 3), (2, 5, 1, 1)]
    case("gate", "QMul", gate, join("Mul"))
    case("gate-first", "QMul", gate[::-1], join("Mul"))
    case("add-broadcast", "Binary", gate, join("Add"))


def pools():
    picture = [(2, 5, 6, 7)]
    pool = lambda op, y=Y, **a: lambda g, x: rounded(g, g.node(op, rounded(g, x, **X), **a), **y)
    case("global-average", "QAvgPool", picture, pool("GlobalAveragePool"))
    case("average", "QAvgPool", picture, pool("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]))
    case("average-counted", "QAvgPool", picture, pool("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
    case("mean", "QAvgPool", picture, pool("ReduceMean", axes=[2, 3]))
    case("mean-flat", "QAvgPool Reshape", picture, pool("ReduceMean", axes=[-1, 2], keepdims=0))
    case("max", "MaxPool", picture, pool("MaxPool", X, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), close="exact")
    case("max-rescaled", "MaxPool Table", picture, pool("MaxPool", kernel_shape=[2, 2]), close="exact")

    def unrounded(g, x):
        v = g.node("Relu", g.node("Conv", rounded(g, x, **X), weight(g, (4, 5, 3, 3))))
        return rounded(g, g.node("MaxPool", v, kernel_shape=[2, 2], strides=[2, 2]), 0.0517, 0)

    case("max-of-unrounded", "MaxPool QConv", picture, unrounded)


def movements():
    picture = [(1, 6, 4, 5)]
    move = lambda op, *inputs, y=X, **a: lambda g, x: rounded(g, g.node(op, rounded(g, x, **X), *(i(g) for i in inputs), **a), **y)
    shape = lambda *sizes: lambda g: g.constant(list(sizes))
    case("reshape", "Reshape", picture, move("Reshape", shape(1, 6, 20)), close="exact")
    case("flatten", "Reshape", picture, move("Flatten"), close="exact")
    case("flatten-rescaled", "Reshape Table", picture, move("Flatten", y=Y), close="exact")
    nearest = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    resize = lambda y: move("Resize", lambda g: "", lambda g: g.constant([1.0, 1.0, 2.0, 2.0]), y=y, **nearest)
    case("resize", "Resize", picture, resize(X), close="exact")
    case("resize-rescaled", "Resize Table", picture, resize(Y), close="exact")
    join = lambda *scales: lambda g, *xs: rounded(g, g.node("Concat", *(rounded(g, x, **s) for x, s in zip(xs, scales)), axis=1), **X)
    three = [(1, 3, 4, 5), (1, 8, 4, 5), (1, 2, 4, 5)]
    case("concat", "Concat", three, join(X, X, X), close="exact")
    case("concat-rescaled", "Concat Table", three, join(X, Y, dict(scale=0.01, zero=128)), close="exact")
    rows = lambda g, a, b: rounded(g, g.node("Concat", rounded(g, a, **X), rounded(g, b, **X), axis=2), **X)
    case("concat-rows", "Concat", [(1, 3, 4, 5)] * 2, rows, close="exact")
    transposed = lambda g, x: rounded(g, g.node("Transpose", rounded(g, x, **X), perm=[0, 2, 3, 1]), **X)
    case("transpose", "Transpose", picture, transposed, close="exact")
    case("transpose-rescaled", "Table Transpose", picture, move("Transpose", y=Y, perm=[0, 3, 1, 2]), close="exact")
    cut = lambda axis, start, end, y=X: move("Slice", *(shape(i) for i in (start, end, axis)), y=y)
    case("slice", "Slice", picture, cut(1, 1, 6), close="exact")
    case("slice-rescaled", "Slice Table", picture, cut(1, 4, 6, Y), close="exact")
    case("slice-rows", "Slice", picture, cut(2, 1, 3), close="exact")

    def split(g, x):
        return [rounded(g, v, **s) for v, s in zip(g.node("Split", rounded(g, x, **X), g.constant([1, 3, 2]), axis=1, results=3), (X, Y, X))]

    case("split", "Slice Table", picture, split, close="exact")


def shuffles():
    def unit(g, v):
        a, b = (rounded(g, part, **Y) for part in g.node("Split", v, g.constant([6, 6]), axis=1, results=2))
        b = rounded(g, g.node("Relu", g.node("Conv", b, weight(g, (6, 6, 1, 1)), bias(g, 6))), **Y)
        v = rounded(g, g.node("Concat", a, b, axis=1), **Y)
        for op, *rest in (("Reshape", g.constant([1, 2, 6, 4, 5])), ("Transpose",), ("Reshape", g.constant([1, 12, 4, 5]))):
            v = rounded(g, g.node(op, v, *rest, **({"perm": [0, 2, 1, 3, 4]} if op == "Transpose" else {})), **Y)
        return v

    case("shuffle", "Concat QConv Reshape Slice Transpose", [(1, 12, 4, 5)], lambda g, x: unit(g, unit(g, rounded(g, x, **Y))))

    def cross_stage(g, x):
        v = rounded(g, g.node("Conv", rounded(g, x, **X), weight(g, (10, 3, 1, 1)), bias(g, 10)), **Y)
        a, b = (rounded(g, part, **Y) for part in g.node("Split", v, g.constant([5, 5]), axis=1, results=2))
        c = rounded(g, g.node("Add", b, rounded(g, g.node("Conv", b, weight(g, (5, 5, 3, 3)), bias(g, 5), pads=[1] * 4), **Y)), **Y)
        return rounded(g, g.node("Conv", rounded(g, g.node("Concat", a, b, c, axis=1), **Y), weight(g, (4, 15, 1, 1)), bias(g, 4)), **Y)

    case("cross-stage", "Concat QAdd QConv Slice", [(1, 3, 6, 5)], cross_stage)

    def boxes(g, x):
        v = rounded(g, g.node("Conv", rounded(g, x, **X), weight(g, (21, 3, 1, 1)), bias(g, 21)), **Y)
        v = rounded(g, g.node("Reshape", v, g.constant([1, 3, 7, 4, 5])), **Y)
        v = rounded(g, g.node("Sigmoid", rounded(g, g.node("Transpose", v, perm=[0, 1, 3, 4, 2]), **Y)), 1 / 255, 0)
        one = dict(scale=1 / 255, zero=0)
        place, size, rest = (rounded(g, p, **one) for p in g.node("Split", v, g.constant([2, 2, 3]), axis=4, results=3))
        size = rounded(g, g.node("Mul", size, size), **one)
        v = rounded(g, g.node("Concat", place, size, rest, axis=4), **one)
        return rounded(g, g.node("Reshape", v, g.constant([1, 60, 7])), **one)

    case("boxes", "Concat QConv Reshape Slice Table Transpose", [(1, 3, 4, 5)], boxes, step=1 / 255)


def tables():
    series = [(1, 5, 8, 8)]

    def table(f, y=Y, x=X, **options):
        def build(g, name):
            return rounded(g, f(g, rounded(g, name, **x)), **y)

        return build

    def check(name, f, opsets=(13, 21), **options):
        for opset in opsets:
            case(name, "Table", series, table(f, **options), close="exact", opset=opset)

    check("hard-swish", lambda g, v: g.node("HardSwish", v), opsets=(14, 21))
    check("hard-sigmoid", lambda g, v: g.node("HardSigmoid", v, alpha=1 / 6, beta=0.5), y=dict(scale=1 / 255, zero=0))
    check("sigmoid", lambda g, v: g.node("Sigmoid", v), y=dict(scale=1 / 255, zero=0))
    check("tanh", lambda g, v: g.node("Tanh", v), y=dict(scale=1 / 128, zero=128))
    check("leaky-relu", lambda g, v: g.node("LeakyRelu", v, alpha=0.1))
    check("relu", lambda g, v: g.node("Relu", v))
    check("clip", lambda g, v: g.node("Clip", v, g.constant(-0.7), g.constant(1.1)))
    check("rescaled", lambda g, v: v)
    check("rescaled-signed", lambda g, v: v, x=dict(**X, signed=True))
    check("arithmetic", lambda g, v: g.node("Add", g.node("Mul", v, g.constant(0.75)), g.constant(0.3)))
    check("silu", lambda g, v: g.node("Mul", v, rounded(g, g.node("Sigmoid", v), 1 / 255, 0)))
    check("gated-hard-swish", lambda g, v: g.node("Mul", rounded(g, g.node("HardSigmoid", v, alpha=1 / 6, beta=0.5), 1 / 255, 0), v))
    check("written-hard-swish", lambda g, v: g.node("Div", g.node("Mul", v, g.node("Clip", g.node("Add", v, g.constant(3.0)), g.constant(0.0), g.constant(6.0))), g.constant(6.0)))
    check("square", lambda g, v: g.node("Mul", v, v))
    gelu = lambda g, v: g.node("Mul", g.node("Mul", v, g.constant(0.5)), g.node("Add", g.node("Erf", g.node("Div", v, g.constant(2**0.5))), g.constant(1.0)))
    check("gelu", gelu)

    def read_otherwise(g, x):
        q = g.node("QuantizeLinear", x, *params(g, *X.values(), False))
        return rounded(g, g.node("DequantizeLinear", q, *params(g, *Y.values(), False)), **Y)

    case("read-otherwise", "Table", series, read_otherwise, close="exact")
    nothing = lambda g, x: rounded(g, g.node("Relu", rounded(g, x, 0.02, 0)), 0.02, 0)
    case("nothing-left", "", series, nothing, close="exact")
    twice = lambda g, x: rounded(g, rounded(g, x, **X), **X)
    case("twice", "", series, twice, close="exact")
    plain = lambda g, x: rounded(g, g.node("Softmax", rounded(g, x, **X), axis=1), 1 / 255, 0)
    case("softmax", "Softmax", series, plain, step=1 / 255)


def blocks():
    def squeeze(g, x):
        v = rounded(g, x, **X)
        s = rounded(g, g.node("GlobalAveragePool", v), 0.02, 128)
        s = rounded(g, g.node("Relu", g.node("Conv", s, weight(g, (4, 8, 1, 1)), bias(g, 4))), 0.03, 0)
        s = rounded(g, g.node("Conv", s, weight(g, (8, 4, 1, 1)), bias(g, 8)), 0.04, 128)
        s = rounded(g, g.node("HardSigmoid", s, alpha=1 / 6, beta=0.5), 1 / 255, 0)
        return rounded(g, g.node("Mul", s, v), **Y)

    case("squeeze-excite", "QAvgPool QConv QMul Table", [(1, 8, 6, 5)], squeeze)

    def series(g, x):
        v = rounded(g, x, **X)
        for _ in range(2):
            v = rounded(g, g.node("Relu", g.node("Conv", v, weight(g, (4, 4, 3)), bias(g, 4), pads=[1, 1])), 0.0517, 0)
        return v

    case("series", "QConv Reshape", [(1, 4, 9)], series)


for family in (convolutions, products, pairs, pools, movements, shuffles, tables, blocks):
    before = len(expected)
    family()
    print(family.__name__, len(expected) - before)
save_file(store, OUT, metadata=expected)
SEEDS.mkdir(parents=True, exist_ok=True)
for old in SEEDS.glob("qdq-*"):
    old.unlink()
for key in sorted(expected)[::6]:
    (SEEDS / f"qdq-{key}").write_bytes(store[f"{key}/model"].tobytes())
print(len(expected), "cases,", OUT.stat().st_size, "bytes")
