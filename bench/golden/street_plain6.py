"""Makes tests/golden/street-plain6.onnx: plain6 at half its width, trained here on bicycle, bus and car of
street-objects-6 and exported with its batch normalisation as it is.

    python bench/golden/street_plain6.py [STREET-OBJECTS-6]

`espalier train --init` begins from it to learn dog, motorcycle and person (crates/cli/tests/transfer.rs).
"""
import pathlib
import sys

import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from torch_networks import plain6  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
DATA = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "../shared/data/street-objects-6"
OUT = ROOT / "tests/golden/street-plain6.onnx"
LABELS, SIDE, EPOCHS, BATCH = ["bicycle", "bus", "car"], 32, 40, 32
MEAN, STD = [0.45, 0.45, 0.45], [0.25, 0.25, 0.25]


def pictures(split):
    """All pictures f32[n,3,SIDE,SIDE], normalised, with their classes."""
    files = [(path, i) for i, label in enumerate(LABELS) for path in sorted((DATA / split / label).iterdir())]
    raw = np.stack([np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path, _ in files])
    x = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std, torch.tensor([i for _, i in files])


def changed(x):
    """Each picture shifted by up to 3 pixels, every other one mirrored."""
    padded = nn.functional.pad(x, [3] * 4)
    shifts = torch.randint(0, 7, (len(x), 2)).tolist()
    x = torch.stack([p[:, top:top + SIDE, left:left + SIDE] for p, (top, left) in zip(padded, shifts)])
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


torch.manual_seed(0)
model = plain6(len(LABELS), 3, 0.5)
(x, y), (x_val, y_val) = pictures("train"), pictures("val")
steps = len(x) // BATCH
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=EPOCHS, steps_per_epoch=steps)
loss = nn.CrossEntropyLoss(label_smoothing=0.1)
for epoch in range(EPOCHS):
    model.train()
    for batch in torch.randperm(len(x))[:steps * BATCH].view(steps, BATCH):
        optimizer.zero_grad()
        loss(model(changed(x[batch])), y[batch]).backward()
        optimizer.step()
        schedule.step()
model.eval()
with torch.no_grad():
    print("accuracy on val:", (model(x_val).argmax(1) == y_val).float().mean().item())
torch.onnx.export(
    model, (x_val[:1],), OUT, input_names=["image"], output_names=["scores"], opset_version=17, dynamo=False,
    dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
    # Else the exporter folds batch normalisation.
    training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
)
file = onnx.load(OUT)
said = {"names": LABELS, "imgsz": [SIDE, SIDE], "mean": MEAN, "std": STD}
onnx.helper.set_model_props(file, {key: str(value) for key, value in said.items()})
onnx.save(file, OUT)
print([node.op_type for node in file.graph.node], OUT.stat().st_size, "bytes")
