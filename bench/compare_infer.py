"""Latency of one answer: an Espalier package and the same network from torchvision in ONNX Runtime, f32, batch 1.

    python bench/compare_infer.py [--networks resnet18,mobilenet_v2] [--threads 2] [--rounds 5]

Weights do not matter for speed: the package comes from one epoch on made-up pictures, the ONNX file from a network as
torchvision initialises it. See bench/README.md.
"""
import argparse
import gc
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
import onnxruntime
import torch
import torchvision
from PIL import Image

import rounds

PIXELS, CLASSES = 224, 3


def pictures(folder):
    """A dataset of noise, in three classes."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        home = folder / f"class{label}"
        home.mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / f"{number:02}.png")
    return folder


def package(binary, name, data, folder):
    """Path of the package that training leaves."""
    out = folder / f"run-{name}"
    rounds.espalier(binary, "train", data, "--model", name, "--imgsz", PIXELS, "--epochs", 1, "--out", out)
    return out / "best.espalier"


def onnx(name, folder):
    """Path of torchvision's network in f32 and inference mode; ONNX Runtime must agree with PyTorch about it."""
    network = getattr(torchvision.models, name)(num_classes=CLASSES).eval()
    x = torch.rand(1, 3, PIXELS, PIXELS)
    path = folder / f"{name}.onnx"
    torch.onnx.export(network, (x,), path, input_names=["x"], output_names=["y"], dynamo=True)
    with torch.no_grad():
        want = network(x).numpy()
    have = session(path, 1).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-4)
    return path


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_runtime(path, threads, runs):
    """Median milliseconds of a run. The session ends with it, so that its threads do not spin beside others."""
    running = session(path, threads)
    given = {"x": np.random.default_rng(0).random((1, 3, PIXELS, PIXELS), dtype=np.float32)}
    times = []
    for _ in range(5 + runs):
        start = time.perf_counter()
        running.run(None, given)
        times.append(time.perf_counter() - start)
    del running
    gc.collect()
    return 1e3 * statistics.median(times[5:])


def espalier(path, arguments):
    result = rounds.espalier(
        arguments.espalier, "benchmark", path, "--threads", arguments.threads, "--runs", arguments.runs)
    return result["p50_ms"]


def compare(name, data, folder, arguments):
    ours, theirs = package(arguments.espalier, name, data, folder), onnx(name, folder)
    figures = rounds.measure(arguments.rounds, {
        "espalier": lambda: espalier(ours, arguments),
        "onnx runtime": lambda: onnx_runtime(theirs, arguments.threads, arguments.runs),
    })
    return rounds.summary(figures, "espalier", lambda ours, peer: peer / ours)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--espalier", default="target/release/espalier")
    parser.add_argument("--networks", default="resnet18,mobilenet_v2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=50, help="timed runs of a round, after 5 untimed ones")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = pictures(folder / "pictures")
        results = {network: compare(network, data, folder, arguments) for network in arguments.networks.split(",")}
    rounds.table("p50 ms", results)
    versions = {"onnxruntime": onnxruntime.__version__, "torchvision": torchvision.__version__, "commit": rounds.commit()}
    print(json.dumps({"compare": "infer", **rounds.machine(arguments.threads), **versions, "results": results}))


if __name__ == "__main__":
    main()
