"""Makes tests/golden/integer-networks.safetensors: whole networks that Espalier trained and ONNX Runtime quantized, with
ONNX Runtime's answers.

    cargo build --release
    python bench/golden/integer_networks.py [--data STREET-OBJECTS-6] [--espalier BINARY] [--keep FOLDER]

Narrow networks are trained by `espalier train`; best.espalier, a safetensors file with PyTorch's names, is read into
PyTorch's modules (bench/torch_networks.py) and exported to ONNX; ONNX Runtime quantizes that in the QDQ form, with bytes
for activations, a signed byte and a scale for each output channel for weights, calibrated on training pictures.
tests/golden/README.md describes the file. Needs torch, torchvision, timm, onnx, onnxruntime, pillow and safetensors.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from torch_networks import build, narrow_resnet  # noqa: E402

OUT = ROOT / "tests/golden/integer-networks.safetensors"
WIDTHS = {"plain6": 0.25, "resnet18": 0.125, "mobilenet_v3_small": 0.25, "mobilenet_v2": 0.25}
SIDE, EPOCHS, CALIBRATION, VALIDATED, ANSWERED = 32, 4, 96, 210, 4

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, default=ROOT / "../shared/data/street-objects-6")
parser.add_argument("--espalier", default=str(ROOT / "target/release/espalier"))
parser.add_argument("--keep", type=pathlib.Path, help="a folder for runs and ONNX files; runs that are there are used")
a = parser.parse_args()
torch.set_num_threads(2)


def trained(name, folder):
    """The package of a run, and its PyTorch module."""
    run, width = folder / name, WIDTHS[name]
    subprocess.run([a.espalier, "train", str(a.data), "--model", name, "--width", str(width), "--imgsz", str(SIDE),
                    "--epochs", str(EPOCHS), "--threads", "2", "--out", str(run), "--resume"], check=True)
    with safe_open(run / "best.espalier", "pt") as file:
        manifest = json.loads(file.metadata()["espalier"])
        state = {key: file.get_tensor(key) for key in file.keys()}
    classes = len(manifest["task"]["labels"])
    module = narrow_resnet(name, classes, width) if name.startswith("resnet") else build(name, classes, 3, (SIDE, SIDE), width)
    ours = {key: state[key] for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    module.load_state_dict(ours, strict=False)
    return manifest["task"], module.eval()


def pictures(task, split, count):
    """`count` pictures of `split`, evenly spaced, as the network takes them, with their classes."""
    files = [(path, i) for i, label in enumerate(task["labels"]) for path in sorted((a.data / split / label).iterdir())]
    files = files[:: len(files) // count][:count]
    raw = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    assert raw.shape[1:] == (SIDE, SIDE, 3), raw.shape
    mean, std = (np.array(task[key], np.float32) for key in ("mean", "std"))
    x = ((raw.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x, np.float32), np.array([i for _, i in files])


class Calibration(CalibrationDataReader):
    def __init__(self, x):
        self.samples = iter(x)

    def get_next(self):
        sample = next(self.samples, None)
        return None if sample is None else {"x": sample[None]}


def quantized(name, module, x, folder):
    """The bytes of the QDQ file."""
    path, pre, out = (folder / f"{name}{end}.onnx" for end in ("", ".pre", ".int8"))
    torch.onnx.export(module, (torch.from_numpy(x[:1]),), path, input_names=["x"], output_names=["y"], dynamo=False,
                      opset_version=17, dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})
    quant_pre_process(path, pre)
    quantize_static(pre, out, Calibration(x), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    return out.read_bytes()


def answers(model, x):
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def golden(folder):
    store = {}
    for name in WIDTHS:
        task, module = trained(name, folder)
        model = quantized(name, module, pictures(task, "train", CALIBRATION)[0], folder)
        x, truth = pictures(task, "val", VALIDATED)
        with torch.no_grad():
            floats = module(torch.from_numpy(x)).numpy()
        bytes_ = answers(model, x)
        right = [round(float((y.argmax(1) == truth).mean()), 3) for y in (floats, bytes_)]
        ops = [node.op_type for node in onnx.load_from_string(model).graph.node]
        print(f"{name}: accuracy {right[0]}, quantized {right[1]}; {len(ops)} nodes, {len(model)} bytes", file=sys.stderr)
        assert min(right) > 0.25, "the network should have learned something"
        # safetensors writes memory as it lies.
        some = np.ascontiguousarray(x[:: len(x) // ANSWERED][:ANSWERED])
        store |= {f"{name}/model": np.frombuffer(model, np.uint8), f"{name}/in/x": some, f"{name}/out/y": answers(model, some)}
    save_file(store, OUT, {"onnxruntime": ort.__version__, "torch": torch.__version__})
    print(OUT.stat().st_size, "bytes", file=sys.stderr)


if a.keep:
    a.keep.mkdir(parents=True, exist_ok=True)
    golden(a.keep)
else:
    with tempfile.TemporaryDirectory() as made:
        golden(pathlib.Path(made))
