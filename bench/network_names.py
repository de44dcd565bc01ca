"""Writes crates/train/tests/data/networks.txt: names and shapes of the states of our networks, and their multiply-adds,
as PyTorch and torchvision have them. Needs torch and torchvision; run from the repository's root."""
import torch
import torch.nn as nn
import torchvision
from torchvision.models.mobilenetv2 import MobileNetV2


class LeNet(nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * (size // 2 // 2 - 2) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x):
        x = torch.max_pool2d(self.conv1(x).relu(), 2)
        x = torch.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


def plain6(classes, channels):
    layers = []
    for i, o, s in [(channels, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)]:
        layers += [nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes))


def resnet(name, classes, channels, size):
    m = getattr(torchvision.models, name)(num_classes=classes)
    if size <= 64:
        m.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        m.maxpool = nn.Identity()
    else:
        m.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return m


def mobilenet_v2(classes, channels, size, width):
    m = MobileNetV2(num_classes=classes, width_mult=width)
    stem = m.features[0][0]
    m.features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, 2, 1, bias=False)
    if size <= 64:
        m.features[0][0].stride = (1, 1)
        m.features[2].conv[1][0].stride = (1, 1)
    return m


def build(name, classes, channels, size, width):
    if name == "lenet":
        return LeNet(classes, channels, size)
    if name == "plain6":
        return plain6(classes, channels)
    if name == "mobilenet_v2":
        return mobilenet_v2(classes, channels, size, width)
    return resnet(name, classes, channels, size)


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
]

with open("crates/train/tests/data/networks.txt", "w") as out:
    print("# made by bench/network_names.py; network: name classes channels size width multiply-adds", file=out)
    for name, classes, channels, size, width in CASES:
        model = build(name, classes, channels, size, width)
        print("network", name, classes, channels, size, width, multiply_adds(model, channels, size), file=out)
        for key, tensor in model.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                print(key, *tensor.shape, file=out)
