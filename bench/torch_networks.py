"""PyTorch's form of every network that Espalier builds, under the same name and with the same parameters: torchvision's
modules, timm's for EfficientNet, and definitions here of LeNet and plain6.

For pictures of at most 64 pixels the stem has stride 1 and no pooling, and in the mobile networks the first strided stage
has stride 1 too. Dropout is 0.
"""
from functools import partial

import timm
import torch
import torchvision
from timm.models import efficientnet as timm_efficientnet
from torch import nn
from torchvision.models import mobilenetv3

SMALL = 64


class LeNet(nn.Module):
    def __init__(self, classes, channels, size, width):
        super().__init__()
        c1, c2, f1, f2 = (scaled(n, width) for n in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(channels, c1, 5, padding=2)
        self.conv2 = nn.Conv2d(c1, c2, 5)
        height, breadth = (n // 2 // 2 - 2 for n in size)
        self.fc1 = nn.Linear(c2 * height * breadth, f1)
        self.fc2 = nn.Linear(f1, f2)
        self.fc3 = nn.Linear(f2, classes)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.fc3(self.relu(self.fc2(self.relu(self.fc1(x.flatten(1))))))


def scaled(channels, width):
    return channels if width == 1 else max(1, int(width * channels / 8 + 0.5)) * 8


def plain6(classes, channels, width):
    layers = []
    for out, stride in [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)]:
        out = scaled(out, width)
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet(name, classes, channels, small):
    m = getattr(torchvision.models, name)(num_classes=classes)
    if small:
        m.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        m.maxpool = nn.Identity()
    else:
        m.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return m


def narrow_resnet(name, classes, width):
    """A ResNet of basic blocks for small pictures with its channels scaled, which torchvision does not have."""

    class Narrow(torchvision.models.ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            if planes == 64:
                self.inplanes = scaled(64, width)
            return super()._make_layer(block, scaled(planes, width), blocks, stride, dilate)

    blocks = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}[name]
    m = Narrow(torchvision.models.resnet.BasicBlock, blocks, num_classes=classes)
    m.conv1, m.bn1 = nn.Conv2d(3, scaled(64, width), 3, 1, 1, bias=False), nn.BatchNorm2d(scaled(64, width))
    m.maxpool, m.fc = nn.Identity(), nn.Linear(scaled(512, width), classes)
    return m


def mobilenet(name, classes, channels, width):
    if name == "mobilenet_v2":
        m = torchvision.models.mobilenet_v2(num_classes=classes, width_mult=width, dropout=0.0)
    else:
        blocks, hidden = mobilenetv3._mobilenet_v3_conf(name, width_mult=width)
        m = mobilenetv3.MobileNetV3(blocks, hidden, num_classes=classes, dropout=0.0)
    m.features[0][0] = nn.Conv2d(channels, m.features[0][0].out_channels, 3, 2, 1, bias=False)
    return m


def efficientnet(name, classes, channels, width):
    make = partial(timm_efficientnet._gen_efficientnet_lite, name, channel_multiplier=width)
    return make(num_classes=classes, in_chans=channels, drop_rate=0.0, drop_path_rate=0.0)


def build(name, classes, channels=3, size=(224, 224), width=1.0):
    """The network `name` for pictures of `size` (height and width)."""
    small = max(size) <= SMALL
    if name == "lenet":
        return LeNet(classes, channels, size, width)
    if name == "plain6":
        return plain6(classes, channels, width)
    if name.startswith("resnet"):
        assert width == 1, "torchvision has no narrow ResNets"
        return resnet(name, classes, channels, small)
    make = mobilenet if name.startswith("mobilenet") else efficientnet
    m = make(name, classes, channels, width)
    if small:
        strided = [layer for layer in m.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
        for layer in strided[:2]:
            layer.stride = (1, 1)
    return m


VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
