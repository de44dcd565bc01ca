"""Writes crates/train/tests/data/networks.txt: names and shapes of the states of our networks, and their multiply-adds,
as PyTorch, torchvision and timm have them. Needs those three; run from the repository's root."""
import torch
import torch.nn as nn

from torch_networks import build


def multiply_adds(model, channels, size):
    total = 0

    def count(layer, _, out):
        nonlocal total
        total += out.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model.eval()(torch.zeros(1, channels, size, size))
    return total


CASES = [  # name, classes, channels, size, width
    ("lenet", 10, 1, 28, 1.0),
    ("lenet", 3, 3, 45, 1.0),
    ("plain6", 10, 3, 32, 1.0),
    ("resnet18", 10, 3, 32, 1.0),
    ("resnet18", 1000, 3, 224, 1.0),
    ("resnet34", 10, 3, 96, 1.0),
    ("resnet50", 1000, 3, 224, 1.0),
    ("resnet50", 7, 1, 64, 1.0),
    ("mobilenet_v2", 1000, 3, 224, 1.0),
    ("mobilenet_v2", 3, 1, 64, 1.0),
    ("mobilenet_v2", 10, 3, 128, 0.35),
    ("mobilenet_v2", 10, 3, 32, 1.4),
    ("mobilenet_v3_small", 1000, 3, 224, 1.0),
    ("mobilenet_v3_small", 10, 1, 45, 0.35),
    ("mobilenet_v3_large", 1000, 3, 224, 1.0),
    ("mobilenet_v3_large", 10, 3, 32, 1.4),
    ("efficientnet_lite0", 1000, 3, 224, 1.0),
    ("efficientnet_lite0", 10, 1, 45, 0.5),
]

with open("crates/train/tests/data/networks.txt", "w") as out:
    print("# made by bench/network_names.py; network: name classes channels size width multiply-adds", file=out)
    for name, classes, channels, size, width in CASES:
        model = build(name, classes, channels, (size, size), width)
        print("network", name, classes, channels, size, width, multiply_adds(model, channels, size), file=out)
        for key, tensor in model.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                print(key, *tensor.shape, file=out)
