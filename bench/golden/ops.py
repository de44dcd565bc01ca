"""Makes tests/golden/ops.safetensors: values and gradients of every op that PyTorch has a counterpart of.

Computed in f64 from f32 inputs and rounded once; PyTorch's own f32 results must agree, or the script fails.
"""
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

from case import TOLERANCE, Cases, halves, indices, numbers

OUT = pathlib.Path(__file__).parents[2] / "tests/golden/ops.safetensors"
cases = Cases()


def listed(values):
    return "[" + ",".join(map(str, values)) + "]"


def window(kernel, stride, pad, dilation=(1, 1)):
    return "window=[" + ",".join(listed(v) for v in (kernel, stride, pad, dilation)) + "]"


def flag(value):
    return str(value).lower()


def surround(x, pad, value=0.0):
    """`pad` is top, left, bottom, right."""
    top, left, bottom, right = pad
    return F.pad(x, (left, right, top, bottom), value=value)


def even(pad):
    return pad[:2] == pad[2:]


# Convolution and matrix products.

CONVS = [  # n, channels, height, width, outputs, kernel, stride, pad, dilation, groups, bias
    (2, 3, 7, 9, 5, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, False),
    (1, 1, 5, 5, 1, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, True),
    (1, 17, 5, 6, 17, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, False),
    (2, 17, 6, 5, 33, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, True),
    (1, 33, 7, 7, 17, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1, False),
    (1, 33, 4, 3, 3, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, True),
    (2, 3, 11, 10, 17, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, False),
    (1, 3, 14, 13, 4, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1, False),
    (1, 3, 9, 8, 4, (5, 3), (2, 1), (2, 1, 2, 1), (1, 1), 1, True),
    (1, 3, 6, 7, 4, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 1, False),
    (1, 3, 6, 7, 4, (3, 2), (1, 2), (2, 0, 1, 1), (1, 1), 1, True),
    (1, 3, 9, 11, 5, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1, False),
    (1, 3, 9, 11, 5, (3, 3), (2, 1), (2, 3, 2, 3), (2, 3), 1, True),
    (1, 3, 8, 8, 3, (2, 2), (3, 3), (0, 0, 0, 0), (1, 1), 1, False),
    (2, 6, 5, 7, 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3, True),
    (1, 34, 5, 5, 34, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 2, False),
    (2, 17, 6, 5, 17, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 17, True),
    (1, 33, 7, 6, 33, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 33, False),
    (1, 33, 6, 6, 33, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 33, False),
    (1, 17, 7, 8, 17, (5, 5), (2, 2), (1, 1, 2, 2), (1, 1), 17, False),
    (1, 17, 8, 7, 17, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 17, False),
    (1, 3, 6, 5, 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3, True),
    (3, 33, 1, 1, 17, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, True),
    (1, 4, 1, 23, 5, (1, 5), (1, 2), (0, 2, 0, 2), (1, 1), 1, True),
]


def conv():
    for number, (n, c, h, w_, o, kernel, stride, pad, dilation, groups, bias) in enumerate(CONVS):
        name = f"conv-{number:02}"
        attrs = f"{window(kernel, stride, pad, dilation)} groups={groups}"
        weights = {"w": numbers(f"{name}/w", (o, c // groups, *kernel), -0.5, 0.5)}
        if bias:
            weights["b"] = numbers(f"{name}/b", (o,))

        def forward(x, w, b=None):
            return F.conv2d(surround(x, pad), w, b, stride, 0, dilation, groups)

        cases.add(
            name, f"y = Conv(x, w{', b' if bias else ''}) {attrs}", forward,
            {"x": numbers(f"{name}/x", (n, c, h, w_))}, weights,
            backward=f"dx = ConvInputGrad(dy, w) {attrs} input={listed((h, w_))}\ndw = ConvWeightGrad(x, dy) {attrs}")


TRANSPOSED = [  # n, O (inputs), height, width, C (outputs), kernel, stride, pad, dilation, groups, output padding
    (1, 3, 4, 5, 5, 2, 2, 0, 1, 1, 0),
    (2, 17, 3, 4, 3, 3, 1, 1, 1, 1, 0),
    (1, 5, 4, 3, 17, 3, 2, 1, 1, 1, 1),
    (1, 6, 4, 4, 4, 4, 2, 1, 1, 2, 0),
    (1, 3, 5, 4, 4, 3, 2, 2, 2, 1, 1),
]


def conv_transpose():
    for number, (n, o, h, w_, c, k, s, p, d, groups, extra) in enumerate(TRANSPOSED):
        name = f"conv-transpose-{number}"
        size = [(v - 1) * s - 2 * p + d * (k - 1) + extra + 1 for v in (h, w_)]
        attrs = f"{window((k, k), (s, s), (p,) * 4, (d, d))} groups={groups} input={listed(size)}"
        cases.add(
            name, f"y = ConvInputGrad(x, w) {attrs}",
            lambda x, w: F.conv_transpose2d(x, w, None, s, p, extra, groups, d),
            {"x": numbers(f"{name}/x", (n, o, h, w_))},
            {"w": numbers(f"{name}/w", (o, c // groups, k, k), -0.5, 0.5)})


def matmul():
    for number, (lead, lead_b, m, k, n) in enumerate([
        ((), (), 3, 17, 5), ((), (), 33, 7, 17), ((), (), 1, 33, 1), ((3,), (3,), 4, 5, 7),
        ((2, 3), (2, 3), 5, 4, 3), ((2, 3), (), 5, 7, 17),
    ]):
        for trans_a, trans_b in [(False, False), (False, True), (True, False), (True, True)]:
            name = f"matmul-{number}-{'t' if trans_a else 'n'}{'t' if trans_b else 'n'}"
            cases.add(
                name, f"y = MatMul(a, b) trans_a={flag(trans_a)} trans_b={flag(trans_b)}",
                lambda a, b: (a.mT if trans_a else a) @ (b.mT if trans_b else b),
                {"a": numbers(f"{name}/a", lead + ((k, m) if trans_a else (m, k)))},
                {"b": numbers(f"{name}/b", lead_b + ((n, k) if trans_b else (k, n)))})


# Pooling and resizing.

POOLS = [  # n, channels, height, width, kernel, stride, pad
    (2, 3, 6, 8, (2, 2), (2, 2), (0, 0, 0, 0)),
    (1, 17, 7, 9, (3, 3), (2, 2), (1, 1, 1, 1)),
    (1, 33, 5, 6, (3, 3), (1, 1), (1, 1, 1, 1)),
    (1, 3, 9, 8, (3, 2), (2, 1), (0, 0, 0, 0)),
    (1, 3, 6, 7, (3, 3), (2, 2), (0, 0, 1, 1)),
    (1, 5, 6, 7, (3, 3), (2, 2), (2, 1, 0, 2)),
    (1, 17, 9, 9, (5, 5), (1, 1), (2, 2, 2, 2)),
    (1, 3, 8, 8, (2, 2), (3, 3), (0, 0, 0, 0)),
    (2, 1, 4, 5, (4, 5), (1, 1), (0, 0, 0, 0)),
]


def max_pool():
    for number, (n, c, h, w, kernel, stride, pad) in enumerate(POOLS):
        attrs = window(kernel, stride, pad)
        for suffix, make, hi in [("", numbers, 2.0), ("-ties", halves, 2.0), ("-negative", numbers, -1.0)]:
            name = f"maxpool-{number}{suffix}"
            cases.add(
                name, f"y = MaxPool(x) {attrs}",
                lambda x: F.max_pool2d(surround(x, pad, -torch.inf), kernel, stride),
                {"x": make(f"{name}/x", (n, c, h, w), -2.0, hi)}, backward=f"dx = MaxPoolGrad(x, dy) {attrs}")


def avg_pool():
    for number, (n, c, h, w, kernel, stride, pad) in enumerate(POOLS):
        def forward(x, count_pad):
            if even(pad) and all(2 * p <= k for p, k in zip(pad, kernel)):
                return F.avg_pool2d(x, kernel, stride, pad[:2], count_include_pad=count_pad)
            sums = F.avg_pool2d(surround(x, pad), kernel, stride)
            return sums if count_pad else sums / F.avg_pool2d(surround(torch.ones_like(x), pad), kernel, stride)

        for count_pad in (False, True):
            name = f"avgpool-{number}{'-count' if count_pad else ''}"
            attrs = f"{window(kernel, stride, pad)} count_pad={flag(count_pad)}"
            cases.add(
                name, f"y = AvgPool(x) {attrs}", lambda x: forward(x, count_pad),
                {"x": numbers(f"{name}/x", (n, c, h, w))},
                backward=f"dx = AvgPoolGrad(dy) {attrs} input={listed((h, w))}")


def resize():
    for mode, torch_mode, extra in [("Nearest", "nearest", {}), ("Linear", "bilinear", {"align_corners": False})]:
        for number, (c, size, to) in enumerate([
            (3, (5, 7), (10, 14)), (17, (3, 5), (7, 9)), (1, (8, 6), (3, 4)), (5, (4, 4), (4, 4)),
            (2, (7, 9), (5, 13)), (3, (1, 1), (3, 2)), (33, (3, 4), (6, 8)),
        ]):
            name = f"resize-{mode.lower()}-{number}"
            cases.add(
                name, f"y = Resize(x) mode={mode} size={listed(to)}",
                lambda x: F.interpolate(x, to, mode=torch_mode, **extra), {"x": numbers(f"{name}/x", (2, c, *size))},
                backward=f"dx = ResizeGrad(dy) mode={mode} input={listed(size)}")


# Normalisation.

NORM_SHAPES = [(4, 3, 5, 7), (3, 17, 4, 3), (2, 33, 3, 3), (5, 1, 2, 3), (9, 5), (4, 6, 11)]


def channel_vectors(name, c):
    weights = {"gamma": numbers(f"{name}/gamma", (c,), 0.3, 1.7), "beta": numbers(f"{name}/beta", (c,), -1.0, 1.0)}
    statistics = {"mean": numbers(f"{name}/mean", (c,), -1.0, 1.0), "var": numbers(f"{name}/var", (c,), 0.3, 2.0)}
    return weights, statistics


def batch_norm_training(x, gamma, beta, mean, var, momentum=0.1, eps=1e-5):
    """y, running mean and variance after it, batch mean, 1 / sqrt(batch variance + eps)."""
    mean, var = mean.clone(), var.clone()
    y, batch_mean, batch_rstd = torch.native_batch_norm(x, gamma, beta, mean, var, True, momentum, eps)
    return y, mean, var, batch_mean, batch_rstd


def batch_norm():
    made = "y, next_mean, next_var, batch_mean, batch_rstd"
    for number, shape in enumerate(NORM_SHAPES):
        for eps, momentum in [("1e-5", "0.1"), ("0.001", "0.03")][: 2 if number < 2 else 1]:
            e, m = float(eps), float(momentum)
            suffix = f"{number}" if m == 0.1 else f"{number}-momentum"
            attrs = f"eps={eps} momentum={momentum}"
            name = f"batchnorm-{suffix}"
            weights, statistics = channel_vectors(name, shape[1])
            x = {"x": numbers(f"{name}/x", shape, -1.0, 3.0)}
            cases.add(
                f"{name}-training",
                f"{made} = BatchNormTraining(x, gamma, beta, mean, var) {attrs}",
                lambda **t: batch_norm_training(**t, momentum=m, eps=e), x, weights, statistics,
                backward="dx, dgamma, dbeta = BatchNormGrad(x, dy, gamma, batch_mean, batch_rstd)")
            cases.add(
                f"{name}-inference", f"y = BatchNorm(x, gamma, beta, mean, var) {attrs}",
                lambda x, gamma, beta, mean, var: F.batch_norm(x, mean, var, gamma, beta, False, m, e),
                x, weights, statistics)


def layer_norm():
    for number, (shape, eps) in enumerate(
            [((4, 17), "1e-5"), ((2, 5, 33), "1e-6"), ((2, 3, 4, 7), "1e-5"), ((3, 96), "1e-5")]):
        name = f"layernorm-{number}"
        weights, _ = channel_vectors(name, shape[-1])
        cases.add(
            name, f"y = LayerNorm(x, gamma, beta) eps={eps}",
            lambda x, gamma, beta: F.layer_norm(x, shape[-1:], gamma, beta, float(eps)),
            {"x": numbers(f"{name}/x", shape, -1.0, 3.0)}, weights,
            backward=f"dx, dgamma, dbeta = LayerNormGrad(x, dy, gamma) eps={eps}")


# Elementwise.

UNARY = [  # text, function, lowest and highest input, further inputs at which the derivative is defined by the op
    ("Relu", torch.relu, -3, 3, [0.0, -0.0, 1e30, -1e30]),
    ("Clip(0.0,6.0)", F.relu6, -4, 10, [0.0, 6.0, 1e30, -1e30]),
    ("Clip(-1.5,0.5)", lambda x: F.hardtanh(x, -1.5, 0.5), -3, 3, [-1.5, 0.5]),
    ("LeakyRelu(0.1)", lambda x: F.leaky_relu(x, 0.1), -3, 3, [0.0, -1e10]),
    ("Sigmoid", torch.sigmoid, -8, 8, [0.0, 80.0, -80.0]),
    ("Silu", F.silu, -8, 8, [0.0, 80.0, -80.0]),
    ("HardSwish", F.hardswish, -5, 5, [0.0, 100.0, -100.0]),
    ("HardSigmoid(0.16666667,0.5)", F.hardsigmoid, -5, 5, [0.0, 100.0, -100.0]),
    ("Gelu", F.gelu, -6, 6, [0.0, 30.0, -30.0]),
    ("Tanh", torch.tanh, -5, 5, [0.0, 1e-4, 40.0, -40.0]),
    ("Exp", torch.exp, -6, 3, [0.0, -80.0]),
    ("Log", torch.log, 0.2, 5, [1.0, 1e10]),
    ("Sqrt", torch.sqrt, 0.2, 5, [1.0, 1e10]),
    ("Abs", torch.abs, -3, 3, [0.0]),
    ("Neg", torch.neg, -3, 3, [0.0]),
    ("Reciprocal", torch.reciprocal, 0.3, 4, [-0.5, 1e10]),
    ("Affine(-1.25,0.75)", lambda x: -1.25 * x + 0.75, -3, 3, [0.0]),
]


def unary():
    for text, function, lo, hi, extreme in UNARY:
        name = "unary-" + text.lower().replace("(", "-").replace(",", "-").rstrip(")")
        x = numbers(f"{name}/x", (3, 17, 3), lo, hi)
        x.flat[: len(extreme)] = extreme
        cases.add(
            name, f"y = Unary(x) f={text}", lambda x: function(x), {"x": x}, backward=f"dx = UnaryGrad(x, dy) f={text}")


BROADCASTS = [  # shapes of a and b
    ((2, 3, 5), (2, 3, 5)), ((2, 3, 4), (4,)), ((2, 17, 3, 2), (17, 1, 1)), ((2, 1, 4), (1, 3, 1)), ((5, 7), ()),
    ((3,), (2, 33, 3)),
]
BINARY = [  # text, function, how inputs are made, their range
    ("Add", torch.add, numbers, -2, 2), ("Sub", torch.sub, numbers, -2, 2), ("Mul", torch.mul, numbers, -2, 2),
    ("Div", torch.div, numbers, 0.5, 2), ("Max", torch.maximum, halves, -1, 1), ("Min", torch.minimum, halves, -1, 1),
    ("Pow", torch.pow, numbers, 0.5, 2),
]


def binary():
    for number, (a_shape, b_shape) in enumerate(BROADCASTS):
        for text, function, make, lo, hi in BINARY:
            name = f"binary-{text.lower()}-{number}"
            inputs = {"a": make(f"{name}/a", a_shape, lo, hi), "b": make(f"{name}/b", b_shape, lo, hi)}
            cases.add(name, f"y = Binary(a, b) f={text}", lambda a, b: function(a, b), inputs)
        # PyTorch refuses to differentiate its Heaviside function; the gradient flows through the product alone.
        name = f"binary-step-{number}"
        inputs = {"a": halves(f"{name}/a", a_shape, -1, 1), "b": halves(f"{name}/b", b_shape, -1, 1)}

        def forward(a, b):
            step = torch.heaviside((a - b).detach(), torch.tensor(0.5, dtype=a.dtype))
            return step, a * step

        cases.add(name, "step = Binary(a, b) f=Step\ny = Binary(a, step) f=Mul", forward, inputs,
                  outputs=["y", "step"], grads=["a"])


def constants():
    cases.add("fill", "y = Fill() shape=[2,3] value=-1.5", lambda: torch.full((2, 3), -1.5), {}, grads=[])
    cases.add("fill-scalar", "y = Fill() shape=[] value=0.1", lambda: torch.full((), 0.1), {}, grads=[])
    x = np.array([0.0, 0.4, -0.4, 0.9, -0.9, 1.5, 2.5, -2.5, 1e6, -1e6, 255.0], np.float32)
    cases.add("cast-f32-i32", "y = Cast(x) to=i32", lambda x: x.to(torch.int32), {"x": x}, grads=[])
    integers = indices("cast/x", (3, 5), 256)
    cases.add("cast-i32-f32", "y = Cast(x) to=f32", lambda x: x.float(), {"x": integers - 128}, grads=[])


# Reductions and losses.

def reduce():
    functions = [("Sum", torch.sum, numbers), ("Mean", torch.mean, numbers), ("Max", torch.amax, halves)]
    for number, (shape, axes) in enumerate([
        ((3, 17), [1]), ((3, 17), [0]), ((2, 5, 4, 3), [2, 3]), ((2, 5, 4, 3), [0, 2, 3]), ((2, 33, 3), [1]),
        ((4, 3, 5), [0, 1, 2]), ((2, 3, 4, 5), [1, 3]),
    ]):
        for text, function, make in functions:
            for keep in (False, True):
                name = f"reduce-{text.lower()}-{number}{'-keep' if keep else ''}"
                cases.add(name, f"y = Reduce(x) f={text} axes={listed(axes)} keep={flag(keep)}",
                          lambda x: function(x, dim=axes, keepdim=keep), {"x": make(f"{name}/x", shape)})


def softmax():
    for number, (shape, axis, bound) in enumerate([
        ((3, 17), 1, 3), ((3, 17), 0, 3), ((2, 5, 3, 4), 1, 3), ((2, 5, 3, 4), 2, 3), ((2, 3, 33), 2, 3),
        ((4, 5), 1, 60),
    ]):
        x = {"x": numbers(f"softmax-{number}/x", shape, -bound, bound)}
        cases.add(f"softmax-{number}", f"y = Softmax(x) axis={axis}", lambda x: F.softmax(x, axis), x,
                  backward=f"dx = SoftmaxGrad(y, dy) axis={axis}")
        cases.add(f"logsoftmax-{number}", f"y = LogSoftmax(x) axis={axis}", lambda x: F.log_softmax(x, axis), x)


def cross_entropy():
    for number, (shape, bound) in enumerate([((5, 3), 2), ((3, 17), 4), ((1, 2), 2), ((4, 10), 60)]):
        name = f"crossentropy-{number}"
        soft = numbers(f"{name}/target", shape, 0.0, 1.0)
        soft /= soft.sum(1, keepdims=True)
        hard = np.eye(shape[1], dtype=np.float32)[indices(f"{name}/label", shape[:1], shape[1])]
        for suffix, target in [("soft", soft), ("hard", hard)]:
            cases.add(
                f"{name}-{suffix}", "loss = CrossEntropy(logits, target)",
                lambda logits, target: F.cross_entropy(logits, target),
                {"logits": numbers(f"{name}/logits", shape, -bound, bound), "target": target}, grads=["logits"],
                backward="dlogits = CrossEntropyGrad(logits, target, dloss)")


# Movement.

MOVEMENTS = [  # name, node, shape of x, what PyTorch does
    ("reshape-0", "Reshape(x) shape=[6,4]", (2, 3, 4), lambda x: x.reshape(6, 4)),
    ("reshape-1", "Reshape(x) shape=[2,17]", (2, 17, 1, 1), lambda x: x.flatten(1)),
    ("reshape-2", "Reshape(x) shape=[2,3,4]", (24,), lambda x: x.reshape(2, 3, 4)),
    ("reshape-3", "Reshape(x) shape=[]", (1,), lambda x: x.reshape(())),
    ("transpose-0", "Transpose(x) perm=[1,0]", (3, 17), lambda x: x.permute(1, 0)),
    ("transpose-1", "Transpose(x) perm=[0,2,3,1]", (2, 3, 5, 4), lambda x: x.permute(0, 2, 3, 1)),
    ("transpose-2", "Transpose(x) perm=[3,1,0,2]", (2, 3, 5, 4), lambda x: x.permute(3, 1, 0, 2)),
    ("transpose-3", "Transpose(x) perm=[1,2,0]", (2, 5, 3), lambda x: x.permute(1, 2, 0)),
    ("expand-0", "Expand(x) shape=[3,17]", (17,), lambda x: x.expand(3, 17)),
    ("expand-1", "Expand(x) shape=[2,5,3]", (2, 1, 3), lambda x: x.expand(2, 5, 3)),
    ("expand-2", "Expand(x) shape=[2,3,4,5]", (1, 3, 1, 1), lambda x: x.expand(2, 3, 4, 5)),
    ("expand-3", "Expand(x) shape=[2,3]", (), lambda x: x.expand(2, 3)),
    ("slice-0", "Slice(x) axis=1 start=5 end=22", (2, 33, 3, 2), lambda x: x[:, 5:22]),
    ("slice-1", "Slice(x) axis=0 start=0 end=3", (7, 3), lambda x: x[:3]),
    ("slice-2", "Slice(x) axis=2 start=8 end=9", (2, 3, 9), lambda x: x[:, :, 8:]),
    ("pad-0", "Pad(x) axis=2 before=1 after=2 value=0.0", (2, 3, 4, 5), lambda x: F.pad(x, (0, 0, 1, 2))),
    ("pad-1", "Pad(x) axis=1 before=0 after=14 value=-1.5", (2, 3, 4), lambda x: F.pad(x, (0, 0, 0, 14), value=-1.5)),
    ("pad-2", "Pad(x) axis=0 before=2 after=0 value=2.0", (3, 5), lambda x: F.pad(x, (0, 0, 2, 0), value=2.0)),
    ("pad-3", "Pad(x) axis=2 before=0 after=1 value=1.0", (2, 3, 7), lambda x: F.pad(x, (0, 1), value=1.0)),
]
CONCATS = [([(2, 3, 4, 3), (2, 17, 4, 3), (2, 1, 4, 3)], 1), ([(2, 5), (3, 5)], 0), ([(2, 3, 5), (2, 3, 4)], 2)]


def movement():
    for name, node, shape, function in MOVEMENTS:
        cases.add(name, f"y = {node}", lambda x: function(x), {"x": numbers(f"{name}/x", shape)})
    for number, (shapes, axis) in enumerate(CONCATS):
        name = f"concat-{number}"
        inputs = {f"x{i}": numbers(f"{name}/x{i}", shape) for i, shape in enumerate(shapes)}
        cases.add(
            name, f"y = Concat({', '.join(inputs)}) axis={axis}", lambda **t: torch.cat(list(t.values()), axis), inputs)


GATHERS = [  # shape of the table, axis, shape of the index
    ((7, 5), 0, (3, 4)), ((5, 17), 0, (6,)), ((3, 5, 4), 1, (7,)), ((2, 3, 5), 2, (2, 2)), ((4, 3), 0, (1, 9)),
]


def gather():
    for number, (shape, axis, index_shape) in enumerate(GATHERS):
        name = f"gather-{number}"

        def forward(table, index):
            if axis == 0:
                return F.embedding(index, table.flatten(1)).reshape(index_shape + shape[1:])
            return table.index_select(axis, index.flatten()).unflatten(axis, index_shape)

        cases.add(
            name, f"y = Gather(table, index) axis={axis}", forward,
            {"index": indices(f"{name}/index", index_shape, shape[axis])}, {"table": numbers(f"{name}/table", shape)},
            backward=f"dtable = GatherGrad(index, dy) axis={axis} size={shape[axis]}")


# Training state.

def scalar(value):
    return np.array(value, np.float32)


def three_steps(optimizer, w, gradients, scale):
    """Weights after each step."""
    w = torch.nn.Parameter(w.clone())
    opt, after = optimizer([w]), []
    for g in gradients:
        w.grad = g * scale
        opt.step()
        after.append(w.detach().clone())
    return after, opt.state[w]


def optimizer_inputs(name, scale):
    shape = (3, 17)
    gradients = {f"g{i}": numbers(f"{name}/g{i}", shape) for i in (1, 2, 3)}
    return {"w": numbers(f"{name}/w", shape)} | gradients | {"lr": scalar(0.05), "scale": scalar(scale)}


def sgd():
    for number, (momentum, nesterov, decay, scale) in enumerate([
        (0.9, False, 0.0, 1.0), (0.9, True, 0.0, 1.0), (0.9, False, 0.1, 1.0), (0.9, True, 0.1, 0.25),
        (0.0, False, 0.1, 0.5),
    ]):
        name = f"sgd-{number}"
        attrs = f"momentum={momentum} nesterov={flag(nesterov)} decay={decay}"

        def forward(w, g1, g2, g3, lr, scale, m0):
            make = lambda p: torch.optim.SGD(p, lr.item(), momentum, 0.0, decay, nesterov)
            after, state = three_steps(make, w, (g1, g2, g3), scale)
            # The op's moments; PyTorch's own are checked below where it keeps any.
            moments, before = [m0], [w, *after]
            for g, p in zip((g1, g2, g3), before):
                moments.append(momentum * moments[-1] + (scale * g + decay * p))
            if momentum:
                torch.testing.assert_close(moments[-1], state["momentum_buffer"])
            return after[0], moments[1], after[1], moments[2], after[2], moments[3]

        weight = {1: "w", 2: "w1", 3: "w2"}
        body = "\n".join(f"w{i}, m{i} = Sgd({w}, g{i}, m{i - 1}, lr, scale) {attrs}" for i, w in weight.items())
        inputs = optimizer_inputs(name, scale) | {"m0": np.zeros((3, 17), np.float32)}
        cases.add(name, body, forward, inputs, grads=[])


def adamw():
    for number, (beta1, beta2, eps, decay, scale) in enumerate([
        (0.9, 0.999, "1e-8", 0.01, 1.0), (0.9, 0.999, "1e-8", 0.0, 1.0), (0.8, 0.95, "0.001", 0.1, 0.25),
    ]):
        name = f"adamw-{number}"
        attrs = f"beta1={beta1} beta2={beta2} eps={eps} decay={decay}"

        def forward(w, g1, g2, g3, lr, scale, zero, **_):
            make = lambda p: torch.optim.AdamW(p, lr.item(), (beta1, beta2), float(eps), decay)
            after, moments = [], []
            for count in (1, 2, 3):
                ws, state = three_steps(make, w, (g1, g2, g3)[:count], scale)
                after.append(ws[-1])
                moments.append((state["exp_avg"], state["exp_avg_sq"]))
            return tuple(v for p, (m, s) in zip(after, moments) for v in (p, m, s))

        before = {1: "w, g1, zero, zero", 2: "w1, g2, m1, v1", 3: "w2, g3, m2, v2"}
        body = "\n".join(
            f"w{i}, m{i}, v{i} = AdamW({read}, lr, scale, step{i}) {attrs}" for i, read in before.items())
        inputs = optimizer_inputs(name, scale) | {"zero": np.zeros((3, 17), np.float32)}
        cases.add(name, body, forward, inputs | {f"step{i}": scalar(i) for i in (1, 2, 3)}, grads=[])


def ema():
    for number, decay in enumerate([0.0, 0.9, 0.999]):
        name = f"ema-{number}"

        def forward(a0, v1, v2, decay):
            averages, step = [a0.clone()], torch.optim.swa_utils.get_ema_multi_avg_fn(decay.item())
            for v in (v1, v2):
                averages.append(averages[-1].clone())
                step([averages[-1]], [v], None)
            return tuple(averages[1:])

        inputs = {key: numbers(f"{name}/{key}", (3, 17)) for key in ("a0", "v1", "v2")}
        cases.add(name, "a1 = Ema(a0, v1, decay)\na2 = Ema(a1, v2, decay)", forward,
                  inputs | {"decay": scalar(decay)}, grads=[])


def clip_grad_norm():
    shapes = [(5, 3), (17,), (2, 3, 3, 1)]
    for name, limit in [("clipnorm-above", 1.0), ("clipnorm-below", 100.0)]:
        def forward(g0, g1, g2):
            params = [torch.nn.Parameter(torch.zeros_like(g)) for g in (g0, g1, g2)]
            for p, g in zip(params, (g0, g1, g2)):
                p.grad = g.clone()
            norm = torch.nn.utils.clip_grad_norm_(params, limit)
            ratio = limit / (norm + 1e-6)
            return norm, norm + 1e-6, 1 / (norm + 1e-6), ratio, ratio.clamp(max=1), *(p.grad for p in params)

        body = f"""
            norm = GlobalNorm(g0, g1, g2)
            positive = Unary(norm) f=Affine(1.0,1e-6)
            inverse = Unary(positive) f=Reciprocal
            ratio = Unary(inverse) f=Affine({limit},0.0)
            scale = Unary(ratio) f=Clip(0.0,1.0)
            y0 = Binary(g0, scale) f=Mul
            y1 = Binary(g1, scale) f=Mul
            y2 = Binary(g2, scale) f=Mul"""
        inputs = {f"g{i}": numbers(f"{name}/g{i}", shape) for i, shape in enumerate(shapes)}
        cases.add(name, body, forward, inputs, grads=[], outputs=["norm", "y0", "y1", "y2"])


# Layers made of several ops: what fusion must not change.

def layers():
    def linear(x, w, b):
        product = x @ w.T
        return product, F.linear(x, w, b)

    cases.add("layer-linear", """
        product = MatMul(x, w) trans_a=false trans_b=true
        y = Binary(product, b) f=Add""", linear, {"x": numbers("linear/x", (5, 33))},
        {"w": numbers("linear/w", (17, 33), -0.5, 0.5), "b": numbers("linear/b", (17,))}, outputs=["y"])

    def conv1d(x, w, b):
        y = F.conv1d(x, w.squeeze(2), b, 2, 2)
        return x.unsqueeze(2), y.unsqueeze(2), y

    cases.add("layer-conv1d", f"""
        picture = Reshape(x) shape=[2,3,1,19]
        conv = Conv(picture, w, b) {window((1, 5), (1, 2), (0, 2, 0, 2))} groups=1
        y = Reshape(conv) shape=[2,17,10]""", conv1d, {"x": numbers("conv1d/x", (2, 3, 19))},
        {"w": numbers("conv1d/w", (17, 3, 1, 5), -0.5, 0.5), "b": numbers("conv1d/b", (17,))}, outputs=["y"])

    def attention(q, k, v):
        scores = q @ k.mT
        return scores, scores / 4, F.softmax(scores / 4, -1), F.scaled_dot_product_attention(q, k, v)

    cases.add("layer-attention", """
        scores = MatMul(q, k) trans_a=false trans_b=true
        scaled = Unary(scores) f=Affine(0.25,0.0)
        weights = Softmax(scaled) axis=3
        y = MatMul(weights, v) trans_a=false trans_b=false""", attention,
        {n: numbers(f"attention/{n}", (2, 3, 5, 16)) for n in "qkv"}, outputs=["y"])


def norm_parts(i, c):
    """Weights and statistics of batch norm number `i`, and its node from `c{i}` to `n{i}`."""
    weights, statistics = channel_vectors(f"block/{i}", c)
    weights["beta"] += np.float32(1)  # a channel that ReLU turns off would leave the next variance at rounding errors
    made = f"n{i}, next_mean{i}, next_var{i}, bm{i}, br{i}"
    node = f"{made} = BatchNormTraining(c{i}, gamma{i}, beta{i}, mean{i}, var{i}) eps=1e-5 momentum=0.1"
    numbered = lambda values: {f"{k}{i}": v for k, v in values.items()}
    return numbered(weights), numbered(statistics), node


def norm(t, i, x):
    return batch_norm_training(x, *(t[f"{k}{i}"] for k in ("gamma", "beta", "mean", "var")))


def residual_block():
    weights, statistics, nodes = {}, {}, {}
    for i, (c_in, c_out) in {1: (17, 5), 2: (5, 17)}.items():
        w, s, nodes[i] = norm_parts(i, c_out)
        weights |= {f"w{i}": numbers(f"residual/w{i}", (c_out, c_in, 3, 3), -0.5, 0.5)} | w
        statistics |= s

    def forward(**t):
        c1 = F.conv2d(t["x"], t["w1"], padding=1)
        n1 = norm(t, 1, c1)
        a1 = F.relu(n1[0])
        c2 = F.conv2d(a1, t["w2"], padding=1)
        n2 = norm(t, 2, c2)
        s = n2[0] + t["x"]
        return c1, *n1, a1, c2, *n2, s, F.relu(s)

    same = f"{window((3, 3), (1, 1), (1, 1, 1, 1))} groups=1"
    body = f"""
        c1 = Conv(x, w1) {same}
        {nodes[1]}
        a1 = Unary(n1) f=Relu
        c2 = Conv(a1, w2) {same}
        {nodes[2]}
        s = Binary(n2, x) f=Add
        y = Unary(s) f=Relu"""
    cases.add("block-residual", body, forward, {"x": numbers("residual/x", (2, 17, 5, 6))}, weights, statistics,
              outputs=["y", "next_mean1", "next_var1", "next_mean2", "next_var2"])


def inverted_block():
    """Pointwise, depthwise with stride 2, squeeze-and-excitation, global pooling: what MobileNets are made of."""
    weights, statistics, nodes = {}, {}, {}
    for i, shape in {1: (17, 3, 1, 1), 2: (17, 1, 3, 3)}.items():
        w, s, nodes[i] = norm_parts(i, 17)
        weights |= {f"w{i}": numbers(f"inverted/w{i}", shape, -1.0, 1.0)} | w
        statistics |= s
    weights |= {"w3": numbers("inverted/w3", (17, 17, 1, 1), -0.5, 0.5), "b3": numbers("inverted/b3", (17,))}

    def forward(**t):
        c1 = F.conv2d(t["x"], t["w1"])
        n1 = norm(t, 1, c1)
        a1 = F.relu6(n1[0])
        c2 = F.conv2d(a1, t["w2"], None, 2, 1, groups=17)
        n2 = norm(t, 2, c2)
        a2 = F.hardswish(n2[0])
        squeezed = a2.mean((2, 3), keepdim=True)
        e = F.conv2d(squeezed, t["w3"], t["b3"])
        gate = F.hardsigmoid(e)
        scaled = a2 * gate
        return c1, *n1, a1, c2, *n2, a2, squeezed, e, gate, scaled, scaled.mean((2, 3))

    one = f"{window((1, 1), (1, 1), (0, 0, 0, 0))} groups=1"
    body = f"""
        c1 = Conv(x, w1) {one}
        {nodes[1]}
        a1 = Unary(n1) f=Clip(0.0,6.0)
        c2 = Conv(a1, w2) {window((3, 3), (2, 2), (1, 1, 1, 1))} groups=17
        {nodes[2]}
        a2 = Unary(n2) f=HardSwish
        squeezed = Reduce(a2) f=Mean axes=[2,3] keep=true
        e = Conv(squeezed, w3, b3) {one}
        gate = Unary(e) f=HardSigmoid(0.16666667,0.5)
        scaled = Binary(a2, gate) f=Mul
        y = Reduce(scaled) f=Mean axes=[2,3] keep=false"""
    cases.add("block-inverted", body, forward, {"x": numbers("inverted/x", (2, 3, 7, 8))}, weights, statistics,
              outputs=["y", "next_mean1", "next_var1", "next_mean2", "next_var2"])


FAMILIES = [
    conv, conv_transpose, matmul, max_pool, avg_pool, resize, batch_norm, layer_norm, unary, binary, constants, reduce,
    softmax, cross_entropy, movement, gather, sgd, adamw, ema, clip_grad_norm, layers, residual_block, inverted_block,
]


def main():
    torch.set_num_threads(1)
    for family in FAMILIES:
        family()
    cases.save(OUT)
    graphs = sum(k.endswith("/graph") for k in cases.texts)
    print(f"{graphs} cases, {len(cases.texts) - graphs} with gradient ops, {OUT.stat().st_size} bytes; "
          f"PyTorch's f32 deviates by at most {cases.worst:.1e} of {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
