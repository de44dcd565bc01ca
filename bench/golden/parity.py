"""Makes tests/golden/parity.json, and the state_dicts beside it: every network of ours as PyTorch computes it.

Each case is a network with random weights: its outputs in evaluation mode, and, of one step in training mode (batch
statistics, mean cross-entropy), the gradients of all parameters and the running statistics that follow. All is computed in
f64; PyTorch's own f32 says how close another f32 implementation can be, and networks with one thing wrong say how far it
must not go. tests/golden/README.md states the formats.
"""
import copy
import functools
import json
import pathlib
import statistics
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from integer_hash import below, uniform

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from torch_networks import VERSIONS, build  # noqa: E402

OUT = pathlib.Path(__file__).parents[2] / "tests/golden"
PROBES = 4

CASES = [  # network, classes, channels, height and width, width, batch, whether the state_dict is kept
    ("lenet", 10, 1, (29, 34), 1.0, 4, False),
    ("lenet", 3, 3, (45, 38), 0.25, 4, True),
    ("plain6", 10, 3, (33, 29), 1.0, 4, False),
    ("plain6", 4, 1, (71, 66), 0.25, 4, False),
    ("resnet18", 10, 3, (37, 29), 1.0, 4, False),
    ("resnet18", 7, 1, (97, 75), 1.0, 4, False),
    ("resnet34", 10, 3, (37, 29), 1.0, 4, False),
    ("resnet34", 7, 1, (97, 75), 1.0, 4, False),
    ("resnet50", 10, 3, (37, 29), 1.0, 4, False),
    ("resnet50", 7, 1, (97, 75), 1.0, 4, False),
    ("mobilenet_v2", 10, 3, (45, 37), 0.35, 4, False),
    ("mobilenet_v2", 7, 1, (97, 75), 1.0, 4, False),
    ("mobilenet_v3_small", 10, 1, (45, 37), 0.1, 4, True),
    ("mobilenet_v3_small", 10, 3, (45, 37), 1.0, 4, False),
    ("mobilenet_v3_small", 7, 1, (97, 75), 1.4, 4, False),
    ("mobilenet_v3_large", 10, 3, (45, 37), 0.35, 4, False),
    ("mobilenet_v3_large", 7, 1, (97, 75), 1.0, 4, False),
    ("efficientnet_lite0", 10, 1, (45, 37), 0.5, 4, False),
    ("efficientnet_lite0", 7, 3, (97, 75), 1.0, 4, False),
]


# Weights and data.

def content(name, shape, normed):
    """Filters and matrices by fan-in; the results of norms on both sides of the bends of the activations, but mostly above 0.

    Channels that are 0 but for a few pixels would have nearly no variance, by which the next norm divides: no f32 could
    agree with f64 about their gradients.
    """
    if len(shape) >= 2:
        return uniform(name, tuple(shape), (3.0 / int(np.prod(shape[1:]))) ** 0.5)
    middle, bound = 0.0, 1.0
    if name.endswith("running_var"):
        middle, bound = 1.5, 0.5
    elif name.endswith(".weight"):
        middle, bound = 1.0, 0.5
    elif normed and name.endswith(".bias"):
        middle = 2.0
    return np.float32(middle) + uniform(name, tuple(shape), bound)


def states(m):
    """The state_dict without the counters, which nothing depends on."""
    return {name: t for name, t in m.state_dict().items() if not name.endswith("num_batches_tracked")}


def filled(case):
    name, classes, channels, size, width, *_ = case
    m = build(name, classes, channels, size, width)
    with torch.no_grad():
        tensors = states(m)
        for key, tensor in tensors.items():
            normed = f"{key.rpartition('.')[0]}.running_mean" in tensors
            tensor.copy_(torch.from_numpy(content(key, tensor.shape, normed)))
    return m


def batch(case, seed):
    _, classes, channels, size, _, n, _ = case
    x = uniform(f"x.{seed}", (n, channels, *size), 2.0)
    return torch.from_numpy(x), torch.from_numpy(below(f"y.{seed}", n, classes))


def checksum(m):
    """Sum of the bits of all elements as 32-bit integers: equal only if Rust made the same ones."""
    return sum(int(t.numpy().view("uint32").sum(dtype="uint64")) for t in states(m).values())


# What is compared.

def probed(name, tensor):
    """Euclidean norm, then products with vectors of random numbers in -1..1."""
    values = tensor.detach().double().numpy().reshape(-1)
    return [float(np.linalg.norm(values)), *(float(values @ probe(name, k, values.size)) for k in range(PROBES))]


@functools.cache
def probe(name, k, size):
    return uniform(f"{name}.probe.{k}", (size,), 1.0)


def evaluate(case, seed, dtype, change=None):
    """Logits, and probes of gradients and of running statistics."""
    m, (x, y) = filled(case), batch(case, seed)
    if change:
        change(m)
    m, x = m.to(dtype), x.to(dtype)
    with torch.no_grad():
        logits = m.eval()(x)
    loss = nn.functional.cross_entropy(m.train()(x), y)
    loss.backward()
    running = {k: t for k, t in m.named_buffers() if "running" in k}
    return {
        "logits": logits.double().numpy(), "loss": loss.item(),
        "gradients": {k: probed(k, p.grad) for k, p in m.named_parameters()},
        "statistics": {k: probed(k, t) for k, t in running.items()},
    }


def deviations(want, got):
    """Of the logits in relative L2; of probes, the largest difference relative to the tensor's norm, or to the median norm
    where that is larger: before a norm, the gradient of a bias is 0."""
    def of(part):
        if not want[part]:
            return 0.0
        median = statistics.median(norm for norm, *_ in want[part].values())
        pairs = ((want[part][k], got[part][k]) for k in want[part])
        return max(max(abs(a - b) for a, b in zip(w[1:], g[1:])) / max(w[0], median) for w, g in pairs)

    logits = np.linalg.norm(want["logits"] - got["logits"]) / np.linalg.norm(want["logits"])
    return {"logits": float(logits), "gradients": of("gradients"), "statistics": of("statistics")}


# Mistakes that must show.

def layers(m, kind):
    return [layer for layer in m.modules() if isinstance(layer, kind)]


def replace(m, old, new):
    """Puts `new()` in the place of every `old`; whether there was one."""
    found = False
    for parent in list(m.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is old:
                setattr(parent, name, new())
                found = True
    return found


def wrong_eps(m):
    for norm in layers(m, nn.BatchNorm2d):
        norm.eps = 1e-3 if norm.eps < 1e-4 else 1e-5
    return bool(layers(m, nn.BatchNorm2d))


def wrong_momentum(m):
    for norm in layers(m, nn.BatchNorm2d):
        norm.momentum = 0.01 if norm.momentum > 0.05 else 0.1
    return bool(layers(m, nn.BatchNorm2d))


def wrong_stride(m):
    """The last block with a stride has none: one convolution, or that of its shortcut too."""
    strided = [(name, layer) for name, layer in m.named_modules() if getattr(layer, "stride", 1) == (2, 2)]
    has_shortcut = bool(strided) and "downsample" in strided[-1][0]
    for _, layer in strided[-2 if has_shortcut else -1:]:
        layer.stride = (1, 1)
    return bool(strided)


def wrong_padding(m):
    """The first convolution reads a pixel further right."""
    layers(m, nn.Conv2d)[0].register_forward_pre_hook(lambda _, args: (args[0].roll(-1, 3),))
    return True


MISTAKES = {  # name: (change, the parts in which it must show)
    "eps": (wrong_eps, ["logits", "gradients"]),
    "momentum": (wrong_momentum, ["statistics"]),
    "stride": (wrong_stride, ["logits", "gradients"]),
    "padding": (wrong_padding, ["logits", "gradients"]),
    "ReLU6 as ReLU": (lambda m: replace(m, nn.ReLU6, nn.ReLU), ["logits", "gradients"]),
    "ReLU as leaky ReLU": (lambda m: replace(m, nn.ReLU, lambda: nn.LeakyReLU(0.01)), ["logits", "gradients"]),
    "hard swish as SiLU": (lambda m: replace(m, nn.Hardswish, nn.SiLU), ["logits", "gradients"]),
    "hard sigmoid as sigmoid": (lambda m: replace(m, nn.Hardsigmoid, nn.Sigmoid), ["logits", "gradients"]),
}

LOGITS = 1e-5  # relative L2
CALM = 2e-5


def tolerances(spread):
    """Ten times what PyTorch's own f32 needs, and at least what f32 can be expected to need."""
    return {part: max(10 * spread[part], 2e-5) for part in ("gradients", "statistics")} | {"logits": LOGITS}


def check_mistakes(case, seed, want, tolerance):
    """The least deviation that a mistake makes, in tolerances."""
    least = {}
    for mistake, (change, parts) in MISTAKES.items():
        if not change(filled(case)):
            continue
        found = deviations(want, evaluate(case, seed, torch.float64, change))
        for part in parts:
            ratio = found[part] / tolerance[part]
            print(f"    {mistake:24} {part:11} {found[part]:.1e} = {ratio:9.1f} tolerances", flush=True)
            if ratio < least.get(part, (float("inf"),))[0]:
                least[part] = (ratio, mistake)
    for part, (ratio, mistake) in least.items():
        assert ratio > 3, f"{case}: {mistake} moves {part} by {ratio:.1f} tolerances only"


def rounded(value, digits):
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}")


BENDS = {nn.ReLU: (0.0,), nn.ReLU6: (0.0, 6.0), nn.Hardswish: (-3.0, 3.0), nn.Hardsigmoid: (-3.0, 3.0)}
MARGIN = 2e-6


def margin(m, x, least=0.0):
    """The least distance of a value from a bend of its activation, or between the two largest of a pooling window, relative
    to the root mean square of its tensor, in training mode. It stops at the first that is below `least`."""
    found = [float("inf")]

    def see(distance, values):
        found[0] = min(found[0], float(distance.min() / values.square().mean().sqrt()))
        if found[0] < least:
            raise StopIteration

    def hook(layer, inputs):
        values = inputs[0].detach()
        if isinstance(layer, nn.MaxPool2d):
            wide = nn.functional.pad(values, [layer.padding] * 4, value=-float("inf"))
            two = wide.unfold(2, layer.kernel_size, layer.stride).unfold(3, layer.kernel_size, layer.stride)
            two = two.flatten(4).topk(2).values
            # Equal zeros of a ReLU pass no gradient.
            see(torch.where(two[..., 0] > 0, two[..., 0] - two[..., 1], float("inf")), values)
        for bend in BENDS.get(type(layer), ()):
            see((values - bend).abs(), values)

    for layer in m.modules():
        layer.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            m.train()(x)
    except StopIteration:
        pass
    return found[0]


def calm(case):
    """The first seed of pictures for which no value passes a bend by rounding alone: seed, values, and spread of f32."""
    network = filled(case).double()
    for seed in range(2000):
        if margin(copy.deepcopy(network), batch(case, seed)[0].double(), MARGIN) >= MARGIN:
            want = evaluate(case, seed, torch.float64)
            spread = deviations(want, evaluate(case, seed, torch.float32))
            assert spread["gradients"] < CALM and spread["logits"] < LOGITS / 10, (case, seed, spread)
            return seed, want, spread
    raise SystemExit(f"{case}: some value is at a bend with every seed")


def golden(case):
    name, classes, channels, size, width, n, keep = case
    probe.cache_clear()
    seed, want, spread = calm(case)
    tolerance = tolerances(spread)
    print(name, size, "x", width, "seed", seed, {k: f"{v:.1e}" for k, v in spread.items()}, flush=True)
    check_mistakes(case, seed, want, tolerance)
    m = filled(case)
    if keep:
        save_file(m.state_dict(), OUT / f"{name}.safetensors")
    return {
        "network": name, "classes": classes, "channels": channels, "size": size, "width": width, "batch": n,
        "seed": seed, "state_dict": f"{name}.safetensors" if keep else None, "checksum": checksum(m),
        "spread": rounded(spread, 2), "tolerance": rounded(tolerance, 3),
        "loss": rounded(want["loss"], 9), "logits": rounded(want["logits"], 9),
        "gradients": rounded(want["gradients"], 8), "statistics": rounded(want["statistics"], 8),
    }


def lines(value, depth):
    """JSON with a line for each entry down to `depth`."""
    if depth == 0 or not isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, dict):
        inner = (f"{json.dumps(k)}: {lines(v, depth - 1)}" for k, v in value.items())
        return "{\n" + ",\n".join(inner) + "\n}"
    return "[\n" + ",\n".join(lines(v, depth - 1) for v in value) + "\n]"


def key(entry):
    return entry["network"], tuple(entry["size"]), entry["width"]


def main():
    """Makes the cases of the networks that are named as arguments, or all; keeps the others as they are."""
    torch.set_num_threads(2)
    path, wanted = OUT / "parity.json", sys.argv[1:]
    entries = {key(entry): entry for entry in json.loads(path.read_text())["cases"]} if path.exists() else {}
    versions = {k: v.split("+")[0] for k, v in VERSIONS.items()}
    for case in CASES:
        if not wanted or case[0] in wanted:
            entry = golden(case)
            entries[key(entry)] = entry
            order = [(name, size, width) for name, _, _, size, width, *_ in CASES]
            made = [entries[k] for k in order if k in entries]
            path.write_text(lines({"made_by": "bench/golden/parity.py", **versions, "cases": made}, 4) + "\n")


if __name__ == "__main__":
    main()
