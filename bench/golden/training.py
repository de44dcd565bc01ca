"""Makes tests/golden/training.json: the losses of ten training steps of PyTorch on three networks.

Weights, inputs and labels come from an integer hash (tests/golden/README.md states it), so the file holds results only.
"""
import json
import pathlib

import numpy as np
import torch
import torch.nn as nn
import torchvision

from integer_hash import below, bits, uniform

OUT = pathlib.Path(__file__).parents[2] / "tests/golden/training.json"
STEPS = 10
SGD = {"momentum": 0.9, "nesterov": True}
DECAY = 5e-4  # of the parameters with at least two axes
RUNS = {  # name: (element type, memory format)
    "contiguous": (torch.float32, torch.contiguous_format),
    "channels_last": (torch.float32, torch.channels_last),
    "float64": (torch.float64, torch.contiguous_format),
}


def plain6():
    layers = []
    for i, o, stride in [(3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)]:
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def resnet18():
    m = torchvision.models.resnet18(num_classes=10)
    m.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    m.maxpool = nn.Identity()
    return m


def mobilenet_v2():
    return torchvision.models.mobilenet_v2(num_classes=3, dropout=0.0)


# With biases of 0 MobileNetV2 is chaotic here: PyTorch's two layouts differ by nearly 1 % after the first step.
NETWORKS = {  # name: (build, batch, size, classes, initial bias, learning rate)
    "plain6": (plain6, 64, 32, 10, 0.0, 0.01),
    "resnet18": (resnet18, 16, 32, 10, 0.0, 0.001),
    "mobilenet_v2": (mobilenet_v2, 8, 96, 3, 1.0, 0.002),
}


def initial(name, shape, bias):
    """Convolutions as He et al. (2015), linear layers as PyTorch's default, batch norm's weights 1."""
    if len(shape) >= 2:
        fan_in = shape[1:].numel()
        return torch.from_numpy(uniform(name, shape, ((6.0 if len(shape) == 4 else 1.0) / fan_in) ** 0.5))
    return torch.full(shape, bias if name.endswith(".bias") else 1.0)


def pictures(step, n, size):
    """Sum of noise in cells of 1, 8 and 32 pixels: white noise alone would look the same to deep layers."""
    x = np.zeros((n, 3, size, size))
    for cell in (1, 8, 32):
        side = size // cell
        noise = uniform(f"x.{step}.{cell}", (n, 3, side, side), 1.0).astype(np.float64)
        x += noise.repeat(cell, 2).repeat(cell, 3)
    return torch.from_numpy(x.astype(np.float32))


def batch(step, n, size, classes):
    """Pictures of variance 1 and labels of one step."""
    return pictures(step, n, size), torch.from_numpy(below(f"y.{step}", n, classes))


def network(build, bias, dtype, memory_format):
    m = build()
    with torch.no_grad():
        for name, p in m.named_parameters():
            p.copy_(initial(name, p.shape, bias))
    return m.train().to(dtype=dtype, memory_format=memory_format)


def optimizer(m, lr):
    params = list(m.parameters())
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, **SGD)


def train(name, run):
    """Losses before each update, and the gradients' Euclidean norms in the first step."""
    build, n, size, classes, bias, lr = NETWORKS[name]
    dtype, memory_format = RUNS[run]
    m = network(build, bias, dtype, memory_format)
    opt = optimizer(m, lr)
    losses, norms = [], {}
    for step in range(STEPS):
        x, y = batch(step, n, size, classes)
        opt.zero_grad()
        loss = nn.functional.cross_entropy(m(x.to(dtype=dtype, memory_format=memory_format)), y)
        loss.backward()
        norms = norms or {k: p.grad.double().norm().item() for k, p in m.named_parameters()}
        opt.step()
        losses.append(loss.item())
    return losses, norms


def checksum(tensors):
    """Sum of the bits of all elements as 32-bit integers: equal only if Rust made the same ones."""
    return sum(int(t.numpy().view("uint32").sum(dtype="uint64")) for t in tensors)


def weights(name):
    build, *_, bias, _ = NETWORKS[name]
    return [initial(k, p.shape, bias) for k, p in build().named_parameters()]


def spread(a, b):
    return [abs(x - y) for x, y in zip(a, b)]


def golden(name):
    _, n, size, classes, bias, lr = NETWORKS[name]
    runs = {run: train(name, run) for run in RUNS}
    losses = {run: result[0] for run, result in runs.items()}
    steps = spread(losses["contiguous"], losses["channels_last"])
    print(name, *(f"\n  {run:14}" + " ".join(f"{v:.6f}" for v in values) for run, values in losses.items()))
    print("  spread        ", " ".join(f"{v:.1e}" for v in steps), flush=True)
    return {
        "batch": n, "size": size, "classes": classes, "bias": bias, "lr": lr,
        "weights_checksum": checksum(weights(name)), "losses": losses,
        "spread": steps, "spread_max": max(steps), "gradient_norms": significant(runs["float64"][1]),
    }


def significant(norms):
    return {k: float(f"{v:.9g}") for k, v in norms.items()}


def hash_samples():
    """The first numbers of one name, to check an implementation of the hash on its own."""
    return {
        "name": "x.0.1", "bits": bits("x.0.1", 4).tolist(), "below_10": below("x.0.1", 4, 10).tolist(),
        "uniform_bound": 0.1, "uniform_bits": uniform("x.0.1", (4,), 0.1).view("uint32").tolist(),
        "pictures_checksum": checksum([pictures(0, 2, 32)]),
    }


def main():
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    made = {
        "made_by": "bench/golden/training.py",
        "torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0],
        "threads": torch.get_num_threads(), "steps": STEPS, **SGD, "decay": DECAY,
        "hash": hash_samples(), "networks": {name: golden(name) for name in NETWORKS},
    }
    OUT.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
