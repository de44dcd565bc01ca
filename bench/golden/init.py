"""Makes tests/golden/init.safetensors, weights as PyTorch users save them, and init-answers.safetensors, what their
network says to `x`.

The weights are plain6's at an eighth of its width for 4 classes: under a prefix, in several float types, with the
counters of batches, and with one tensor more. The answers are computed in f64 from the weights as they are stored.
"""
import pathlib

import torch
import torch.nn as nn
from safetensors.torch import save_file

from case import numbers, safetensors

FOLDER = pathlib.Path(__file__).parents[2] / "tests/golden"
CLASSES, SIZE = 4, 16
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # of the layers in turn


def network():
    layers = []
    for i, o, stride in [(3, 8, 1), (8, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2)]:
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def content(name, shape):
    """Gammas and variances around 1, everything else around 0 and such that signals neither grow nor fade."""
    fan_in = shape[1:].numel() if len(shape) > 1 else 16
    bound = (6 / fan_in) ** 0.5 if len(shape) > 1 else 0.5
    around_one = len(shape) == 1 and name.endswith(("weight", "running_var"))
    return torch.from_numpy(numbers(f"init/{name}", shape, -bound, bound)) + (1.0 if around_one else 0.0)


def stored():
    state = network().state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = content(name, tensor.shape).to(TYPES[int(name.split(".")[0]) // 3 % len(TYPES)])
        else:
            state[name] = torch.tensor(1234)
    return state


state = stored()
model = network().double().eval()
model.load_state_dict(state)
x = numbers("init/x", (3, 3, SIZE, SIZE))
with torch.no_grad():
    logits = model(torch.from_numpy(x).double()).numpy().astype("float32")
save_file({f"module.model.{name}": tensor for name, tensor in state.items()} | {"ema_decay": torch.ones(1)},
          FOLDER / "init.safetensors")
answers = safetensors({"x": x, "logits": logits}, {"torch": torch.__version__})
(FOLDER / "init-answers.safetensors").write_bytes(answers)
print(logits)
