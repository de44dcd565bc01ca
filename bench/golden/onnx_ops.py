"""Makes tests/golden/onnx.safetensors: one small ONNX model for each operator and way of writing it, with the outputs of
ONNX Runtime. Every eighth model becomes a seed for fuzzing, in fuzz/seeds/onnx.

Needs onnx, onnxruntime, numpy and safetensors. Inputs, weights and models are the same bytes every time.
"""
import pathlib

from onnx import TensorProto, helper
from safetensors.numpy import save_file

from onnx_case import FIRST, LAST, both, case, store

ROOT = pathlib.Path(__file__).parents[2]
OUT, SEEDS = ROOT / "tests/golden/onnx.safetensors", ROOT / "fuzz/seeds/onnx"
def convolutions():
    picture = [(1, 6, 7, 9)]
    conv = lambda shape, **a: lambda g, x: g.node("Conv", x, g.weight(shape), g.weight(shape[:1]), **a)
    both("conv", picture, conv((5, 6, 3, 3), pads=[1, 1, 1, 1]))
    both("conv-depthwise", picture, conv((6, 1, 3, 3), pads=[1, 0, 2, 1], strides=[2, 1], group=6))
    both("conv-groups", picture, conv((4, 3, 3, 2), dilations=[2, 1], group=2, kernel_shape=[3, 2]))
    both("conv-same-upper", picture, conv((5, 6, 3, 4), auto_pad="SAME_UPPER", strides=[2, 2]))
    both("conv-same-lower", picture, conv((5, 6, 2, 2), auto_pad="SAME_LOWER", strides=[2, 3]))
    both("conv-valid", picture, conv((5, 6, 3, 3), auto_pad="VALID"))
    both("conv-1d", [(2, 4, 11)], conv((6, 4, 3), pads=[1, 2], strides=[2]))
    case("conv-padded", 13, picture, lambda g, x: g.node("Conv", g.node("Pad", x, g.constant([0, 0, 1, 2, 0, 0, 3, 0])), g.weight((5, 6, 3, 3))))
    transposed = lambda shape, **a: lambda g, x: g.node("ConvTranspose", x, g.weight(shape), g.weight((shape[1] * a.get("group", 1),)), **a)
    both("conv-transpose", picture, transposed((6, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]))
    both("conv-transpose-groups", picture, transposed((6, 2, 2, 3), strides=[1, 2], group=3))
    both("conv-transpose-dilated", picture, transposed((6, 3, 3, 2), dilations=[2, 3], pads=[0, 1, 1, 0]))
    both("conv-transpose-same", picture, transposed((6, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]), first=11)
    both("conv-transpose-shape", picture, transposed((6, 3, 4, 4), output_shape=[14, 17], strides=[2, 2]))
    both("conv-transpose-1d", [(1, 4, 5)], transposed((4, 3, 3), strides=[2]))
    case("conv-transpose-plain", 15, picture, lambda g, x: g.node("ConvTranspose", x, g.weight((6, 2, 2, 2)), strides=[2, 2]))


def pools():
    picture = [(1, 3, 9, 10)]
    for kind in ("MaxPool", "AveragePool"):
        pool = lambda **a: lambda g, x: g.node(kind, x, **a)
        both(kind, picture, pool(kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]))
        both(f"{kind}-same", picture, pool(kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER"))
        both(f"{kind}-ceil", picture, pool(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), first=10)
        both(f"{kind}-ceil-pads", picture, pool(kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1), first=10)
        both(f"{kind}-1d", [(1, 3, 9)], pool(kernel_shape=[3], strides=[2], pads=[1, 0]))
    counted = lambda **a: lambda g, x: g.node("AveragePool", x, kernel_shape=[3, 3], count_include_pad=1, **a)
    both("average-counted", picture, counted(strides=[2, 2], pads=[1, 1, 1, 1]))
    both("average-counted-ceil", picture, counted(strides=[3, 2], pads=[1, 1, 0, 0], ceil_mode=1), first=19)
    both("GlobalAveragePool", picture, lambda g, x: g.node("GlobalAveragePool", x))
    both("GlobalMaxPool", picture, lambda g, x: g.node("GlobalMaxPool", x))


def products():
    gemm = lambda a, b, c, **k: lambda g, x: g.node("Gemm", x, g.weight(b), *([g.weight(c)] if c else []), **k)
    both("gemm", [(2, 5)], gemm(0, (5, 4), (4,)))
    both("gemm-linear", [(2, 5)], gemm(0, (4, 5), (4,), transB=1))
    both("gemm-scaled", [(2, 5)], gemm(0, (4, 5), (1, 4), transB=1, alpha=0.5, beta=-2.0))
    both("gemm-transposed", [(5, 2)], gemm(0, (5, 4), (2, 4), transA=1))
    both("gemm-column", [(2, 5)], gemm(0, (5, 4), (2, 1)))
    both("gemm-scalar", [(2, 5)], gemm(0, (5, 4), (1,)))
    both("gemm-bare", [(2, 5)], gemm(0, (5, 4), None), first=11)
    matmul = lambda *b: lambda g, x: g.node("MatMul", x, g.weight(b))
    both("matmul", [(2, 5)], matmul(5, 4))
    both("matmul-tall", [(2, 3, 5)], matmul(5, 4))
    both("matmul-batch", [(2, 3, 5), (2, 5, 2)], lambda g, a, b: g.node("MatMul", a, b))
    both("matmul-broadcast", [(2, 3, 5), (1, 5, 2)], lambda g, a, b: g.node("MatMul", a, b))
    both("matmul-left", [(2, 5, 3)], lambda g, x: g.node("MatMul", g.weight((4, 5)), x))
    both("matmul-vector", [(2, 3, 5)], matmul(5))
    both("matmul-row", [(2, 5, 3)], lambda g, x: g.node("MatMul", g.weight((5,)), x))


def norms():
    picture = [(1, 3, 4, 5)]
    batch = lambda **a: lambda g, x: g.node("BatchNormalization", x, *(g.weight((3,), n, n == "var") for n in ("scale", "b", "mean", "var")), **a)
    both("batch-norm", picture, batch(epsilon=0.01), last=15)
    both("batch-norm-vector", [(2, 3)], batch(), first=9)
    both("conv-batch-norm", [(1, 4, 5, 5)], lambda g, x: batch()(g, g.node("Conv", x, g.weight((3, 4, 3, 3)))), first=9)
    both("instance-norm", picture, lambda g, x: g.node("InstanceNormalization", x, g.weight((3,)), g.weight((3,)), epsilon=0.1))
    layer = lambda shape, **a: lambda g, x: g.node("LayerNormalization", x, g.weight(shape), g.weight(shape), **a)
    both("layer-norm", [(2, 3, 7)], layer((7,)), first=17)
    both("layer-norm-axes", [(2, 3, 7)], layer((3, 7), axis=1, epsilon=0.01), first=17)
    case("layer-norm-bare", 17, [(2, 7)], lambda g, x: g.node("LayerNormalization", x, g.weight((7,))))


def activations():
    x = [(2, 3, 4, 5)]
    for op in ("Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "LeakyRelu", "HardSigmoid", "Elu", "Softplus"):
        both(op.lower(), x, lambda g, x: g.node(op, x))
    both("erf", x, lambda g, x: g.node("Erf", x), first=9)
    both("leaky-relu-slope", x, lambda g, x: g.node("LeakyRelu", x, alpha=0.3))
    both("hard-sigmoid-slope", x, lambda g, x: g.node("HardSigmoid", x, alpha=0.25, beta=0.4))
    both("hard-swish", x, lambda g, x: g.node("HardSwish", x), first=14)
    both("mish", x, lambda g, x: g.node("Mish", x), first=18)
    for kind in ("none", "tanh"):
        both(f"gelu-{kind}", x, lambda g, x: g.node("Gelu", x, approximate=kind), first=20)
    for op in ("Log", "Sqrt", "Reciprocal"):
        both(op.lower(), x, lambda g, x: g.node(op, g.node("Add", g.node("Abs", x), g.constant(0.5))))
    both("prelu", x, lambda g, x: g.node("PRelu", x, g.weight((3, 1, 1))))
    both("prelu-one", x, lambda g, x: g.node("PRelu", x, g.weight((1,))))
    both("clip", x, lambda g, x: g.node("Clip", x, min=-0.5, max=1.0), last=10)
    both("clip-inputs", x, lambda g, x: g.node("Clip", x, g.constant(0.0), g.constant(6.0)), first=11)
    both("clip-above", x, lambda g, x: g.node("Clip", x, "", g.constant(0.25)), first=11)
    for op in ("Softmax", "LogSoftmax"):
        both(op.lower(), [(2, 7)], lambda g, x: g.node(op, x))
        both(f"{op.lower()}-axis", x, lambda g, x: g.node(op, x, axis=2))
        case(f"{op.lower()}-default", 11, x, lambda g, x: g.node(op, x))


def written_out():
    """What exporters write step by step."""
    x = [(2, 3, 4, 5)]
    both("silu", x, lambda g, x: g.node("Mul", x, g.node("Sigmoid", x)))
    both("hard-swish-clip", x, lambda g, x: g.node("Div", g.node("Mul", x, g.node("Clip", g.node("Add", x, g.constant(3.0)), g.constant(0.0), g.constant(6.0))), g.constant(6.0)), first=11)
    both("hard-swish-gate", x, lambda g, x: g.node("Mul", x, g.node("Div", g.node("Clip", g.node("Add", x, g.constant(3.0)), g.constant(0.0), g.constant(6.0)), g.constant(6.0))), first=11)
    both("hard-swish-sigmoid", x, lambda g, x: g.node("Mul", x, g.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)))
    gauss = lambda g, x: g.node("Add", g.node("Erf", g.node("Div", x, g.constant(2.0**0.5))), g.constant(1.0))
    both("gelu-erf", x, lambda g, x: g.node("Mul", g.node("Mul", x, gauss(g, x)), g.constant(0.5)), first=9)
    both("gelu-half", x, lambda g, x: g.node("Mul", g.node("Mul", g.constant(0.5), x), gauss(g, x)), first=9)
    both("relu6", x, lambda g, x: g.node("Min", g.node("Relu", x), g.constant(6.0)), first=8)

    def layer_norm(g, x):
        centred = g.node("Sub", x, g.node("ReduceMean", x, axes=[-1]))
        variance = g.node("ReduceMean", g.node("Pow", centred, g.constant(2.0)), axes=[-1])
        normal = g.node("Div", centred, g.node("Sqrt", g.node("Add", variance, g.constant(1e-5))))
        return g.node("Add", g.node("Mul", normal, g.weight((5,))), g.weight((5,)))

    both("layer-norm-steps", x, layer_norm, last=17)


def arithmetic():
    x = [(2, 3, 4, 5)]
    for op in ("Add", "Sub", "Mul", "Div"):
        both(op.lower(), x * 2, lambda g, a, b: g.node(op, a, b))
        both(f"{op.lower()}-number", x, lambda g, x: g.node(op, x, g.constant([0.75])))
        both(f"{op.lower()}-channel", x, lambda g, x: g.node(op, x, g.weight((3, 1, 1), positive=True)))
    for op in ("Sub", "Div"):
        both(f"number-{op.lower()}", x, lambda g, x: g.node(op, g.constant([1.5]), g.node("Add", g.node("Abs", x), g.constant([1.0]))))
    both("add-larger", [(3,)], lambda g, x: g.node("Add", x, g.constant([[0.5]])))
    for exponent in (1.0, 2.0, 3.0, 0.5, -1.0, 1.7):
        both(f"pow-{exponent}", x, lambda g, x: g.node("Pow", g.node("Add", g.node("Abs", x), g.constant(0.5)), g.constant(exponent)))
    for op in ("Max", "Min", "Sum", "Mean"):
        both(op.lower(), x * 3, lambda g, *v: g.node(op, *v), first=8)
        both(f"{op.lower()}-two", x, lambda g, x: g.node(op, x, g.weight((5,))), first=8)
    both("max-number", x, lambda g, x: g.node("Max", x, g.constant(0.5)), first=8)


def reductions():
    x = [(2, 3, 4, 5)]
    for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
        old = 11 if op == "ReduceSum" else 13 if op != "ReduceMax" else 17
        case(f"{op}-axes", 7, x, lambda g, x: g.node(op, x, axes=[1, 3]))
        case(f"{op}-drop", old, x, lambda g, x: g.node(op, x, axes=[-1], keepdims=0))
        case(f"{op}-input", LAST, x, lambda g, x: g.node(op, x, g.constant([2, 3])))
        case(f"{op}-all", LAST, x, lambda g, x: g.node(op, x))
    case("ReduceMean-none", LAST, x, lambda g, x: g.node("ReduceMean", x, noop_with_empty_axes=1))


def movements():
    x = [(2, 3, 4, 6)]
    both("reshape", x, lambda g, x: g.node("Reshape", x, g.constant([0, -1, 6])))
    both("flatten", x, lambda g, x: g.node("Flatten", x))
    both("flatten-axis", x, lambda g, x: g.node("Flatten", x, axis=2))
    both("transpose", x, lambda g, x: g.node("Transpose", x, perm=[0, 2, 3, 1]))
    both("transpose-reverse", x, lambda g, x: g.node("Transpose", x))
    both("squeeze", [(2, 1, 4, 1)], lambda g, x: g.node("Squeeze", x))
    case("squeeze-axes", 7, [(2, 1, 4, 1)], lambda g, x: g.node("Squeeze", x, axes=[1]))
    case("squeeze-axes", LAST, [(2, 1, 4, 1)], lambda g, x: g.node("Squeeze", x, g.constant([-1])))
    case("unsqueeze", 7, [(2, 3)], lambda g, x: g.node("Unsqueeze", x, axes=[0, 3]))
    case("unsqueeze", LAST, [(2, 3)], lambda g, x: g.node("Unsqueeze", x, g.constant([1, -1])))
    both("expand", [(2, 1, 4)], lambda g, x: g.node("Expand", x, g.constant([3, 1, 3, 1])), first=8)
    both("tile", [(2, 1, 4)], lambda g, x: g.node("Tile", x, g.constant([1, 3, 2])))
    both("concat", x * 2, lambda g, a, b: g.node("Concat", a, g.weight((2, 2, 4, 6)), b, axis=1))
    both("concat-last", x * 2, lambda g, a, b: g.node("Concat", a, b, axis=-1), first=11)
    for mode in ("DCR", "CRD"):
        both(f"depth-to-space-{mode}", [(1, 8, 2, 3)], lambda g, x: g.node("DepthToSpace", x, blocksize=2, mode=mode), first=11)
    both("space-to-depth", x, lambda g, x: g.node("SpaceToDepth", x, blocksize=2))
    case("slice", 7, x, lambda g, x: g.node("Slice", x, axes=[1, 3], starts=[1, -5], ends=[3, 1000]))
    slices = lambda *lists: lambda g, x: g.node("Slice", x, *(g.constant(v) for v in lists))
    both("slice-steps", x, slices([0, 5], [4, -100], [2, 3], [2, -2]), first=10)
    both("slice-plain", x, slices([1, 1], [2, 3]), first=10)
    case("split", 7, x, lambda g, x: g.node("Split", x, results=2, axis=1, split=[1, 2]))
    case("split", 13, x, lambda g, x: g.node("Split", x, g.constant([1, 2, 3]), results=3, axis=-1))
    case("split-even", 11, x, lambda g, x: g.node("Split", x, results=2, axis=3))
    case("split-rest", LAST, x, lambda g, x: g.node("Split", x, results=2, axis=1, num_outputs=2))
    both("gather", x, lambda g, x: g.node("Gather", x, g.constant([2, 0, -1]), axis=1), first=11)
    both("gather-one", x, lambda g, x: g.node("Gather", x, g.constant(1), axis=2))
    both("gather-matrix", x, lambda g, x: g.node("Gather", x, g.constant([[0, 1], [1, 2]]), axis=1))
    case("pad", 7, x, lambda g, x: g.node("Pad", x, pads=[0, 0, 1, 2, 0, 1, 0, 3], value=0.5))
    pad = lambda mode, *pads: lambda g, x: g.node("Pad", x, g.constant(list(pads)), mode=mode)
    both("pad-input", x, lambda g, x: g.node("Pad", x, g.constant([0, 0, 1, -2, 0, 1, 0, 3]), g.constant(-1.5)), first=11)
    both("pad-reflect", x, pad("reflect", 0, 0, 2, 1, 0, 0, 1, 3), first=11)
    both("pad-edge", x, pad("edge", 0, 0, 2, 1, 0, 0, 1, 3), first=11)
    case("pad-axes", LAST, x, lambda g, x: g.node("Pad", x, g.constant([1, 2, 0, 1]), "", g.constant([-1, 2])))
    both("identity", x, lambda g, x: g.node("Identity", g.node("Dropout", g.node("Relu", x))))
    case("cast", 13, x, lambda g, x: g.node("Cast", g.node("Cast", x, to=TensorProto.INT32), to=TensorProto.FLOAT))


def resizes():
    x = [(1, 3, 4, 5)]
    scales = [1.0, 1.0, 2.0, 3.0]
    case("upsample", 7, x, lambda g, x: g.node("Upsample", x, scales=scales))
    case("upsample-input", 9, x, lambda g, x: g.node("Upsample", x, g.constant(scales)))
    case("upsample-linear", 9, x, lambda g, x: g.node("Upsample", x, g.constant([1.0, 1.0, 2.0, 2.0]), mode="linear"))
    case("resize-old", 10, x, lambda g, x: g.node("Resize", x, g.constant([1.0, 1.0, 2.0, 0.6])))
    scaled = lambda s, **a: lambda g, x: g.node("Resize", x, "", g.constant(s), **a)
    sized = lambda s, **a: lambda g, x: g.node("Resize", x, "", "", g.constant(s), **a)
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for mode in ("half_pixel", "asymmetric", "align_corners"):
            case(f"nearest-{nearest}-{mode}", 13, x, sized([1, 3, 7, 8], nearest_mode=nearest, coordinate_transformation_mode=mode))
    for mode in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
        both(f"linear-{mode}", x, sized([1, 3, 7, 10], mode="linear", coordinate_transformation_mode=mode), first=13)
        case(f"linear-factor-{mode}", 13, x, scaled([1.0, 1.0, 1.3, 0.7], mode="linear", coordinate_transformation_mode=mode))
    both("nearest-doubled", x, scaled([1.0, 1.0, 2.0, 2.0], coordinate_transformation_mode="asymmetric", nearest_mode="floor"), first=13)
    both("linear-halved", x, scaled([1.0, 1.0, 0.5, 2.0], mode="linear"), first=13)
    case("resize-axes", LAST, x, lambda g, x: g.node("Resize", x, "", "", g.constant([9, 8]), axes=[3, 2]))
    case("resize-1d", 13, [(1, 3, 5)], scaled([1.0, 1.0, 2.0], mode="linear"))


def shapes():
    """Sizes that are computed in the graph."""

    def view(g, x):
        shape = g.node("Shape", x)
        n = g.node("Gather", shape, g.constant(0))
        wanted = g.node("Concat", g.node("Unsqueeze", n, g.constant([0])), g.constant([-1]), axis=0)
        return g.node("Reshape", x, wanted)

    case("view", LAST, [(2, 3, 4)], view, dims=[("batch", 3, 4)])

    def doubled(g, x):
        tail = g.node("Slice", g.node("Shape", x), g.constant([2]), g.constant([4]))
        floats = g.node("Cast", tail, to=TensorProto.FLOAT)
        wanted = g.node("Cast", g.node("Floor", g.node("Mul", floats, g.constant([2.0, 2.0]))), to=TensorProto.INT64)
        head = g.node("Slice", g.node("Shape", x), g.constant([0]), g.constant([2]))
        return g.node("Resize", x, "", "", g.node("Concat", head, wanted, axis=0), mode="nearest")

    case("doubled", 13, [(2, 3, 4, 5)], doubled, dims=[("batch", 3, 4, 5)])

    def grown(g, x):
        target = g.node("Concat", g.constant([2]), g.node("Shape", x), axis=0)
        ones = g.node("ConstantOfShape", g.node("Shape", target), value=helper.make_tensor("one", TensorProto.INT64, [1], [1]))
        minus = g.node("Mul", ones, g.constant(-1))
        chosen = g.node("Where", g.node("Equal", target, minus), ones, target)
        return g.node("Expand", x, chosen)

    case("grown", 13, [(3, 4)], grown, dims=[("batch", 4)])

    def grid(g, x):
        columns = g.node("Range", g.constant(0), g.constant(5), g.constant(1))
        floats = g.node("Div", g.node("Cast", columns, to=TensorProto.FLOAT), g.constant(5.0))
        wide = g.node("Expand", g.node("Unsqueeze", floats, g.constant([0])), g.constant([4, 5]))
        return g.node("Add", x, g.node("Sub", g.constant(1.0), g.node("Tile", wide, g.constant([1, 1]))))

    case("grid", 13, [(2, 4, 5)], grid)

    def shuffled(g, x):
        split = g.node("Reshape", x, g.constant([1, 2, 3, 4, 4]))
        return g.node("Reshape", g.node("Transpose", split, perm=[0, 2, 1, 3, 4]), g.constant([1, -1, 4, 4]))

    case("channel-shuffle", 13, [(1, 6, 4, 4)], shuffled)

    def windows(g, x):
        split = g.node("Reshape", x, g.constant([1, 2, 2, 3, 2, 5]))
        moved = g.node("Transpose", split, perm=[0, 1, 3, 2, 4, 5])
        return g.node("Reshape", g.node("Reshape", moved, g.constant([6, 4, 5])), g.constant([1, 6, 20]))

    def token(g, x):
        return g.node("Concat", g.weight((1, 1, 5)), x, axis=1)

    case("class-token", 13, [(1, 3, 5)], token)

    def expanded(g, x):
        n = g.node("Unsqueeze", g.node("Gather", g.node("Shape", x), g.constant(0)), g.constant([0]))
        grown = g.node("Expand", g.weight((1, 1, 5)), g.node("Concat", n, g.constant([2, 5]), axis=0))
        half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
        filled = g.node("ConstantOfShape", g.node("Concat", n, g.constant([1, 5]), axis=0), value=half)
        return g.node("Concat", grown, x, filled, axis=1)

    case("expanded", 13, [(2, 3, 5)], expanded, dims=[("batch", 3, 5)])
    case("resize-sample", 13, [(1, 2, 3, 4)], lambda g, x: g.node("Resize", x, "", "", g.constant([1, 2, 6, 6]), mode="linear"))

    case("windows", 13, [(1, 4, 6, 5)], windows)


for family in (convolutions, pools, products, norms, activations, written_out, arithmetic, reductions, movements, resizes, shapes):
    before = len(store)
    family()
    print(family.__name__, len(store) - before)
save_file(store, OUT)
for old in SEEDS.glob("*"):
    if not old.name.startswith("qdq-"):
        old.unlink()
SEEDS.mkdir(parents=True, exist_ok=True)
for key in [k for k in store if k.endswith("/model")][::8]:
    (SEEDS / key.split("/")[0]).write_bytes(store[key].tobytes())
print(len({k.split("/")[0] for k in store}), "cases,", OUT.stat().st_size, "bytes")
