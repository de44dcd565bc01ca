"""Training steps per second: Espalier and PyTorch on the CPU, same networks, batches and threads.

    python bench/compare_train.py [--networks plain6,mobilenet_v3_large] [--threads 2] [--rounds 5]

A step is forward, cross-entropy, backward and SGD with momentum on data in memory. See bench/README.md.
"""
import argparse
import json
import statistics
import time

import torch
from torch import nn

import rounds
from torch_networks import VERSIONS, build

NETWORKS = {  # name: batch, pixels, classes
    "plain6": (64, 32, 10),
    "resnet18": (32, 32, 10),
    "mobilenet_v2": (16, 128, 3),
    "mobilenet_v3_small": (16, 128, 3),
    "mobilenet_v3_large": (16, 128, 3),
    "efficientnet_lite0": (16, 128, 3),
}


def pytorch(name, steps, precision, compiled):
    """Images per second of PyTorch, from the median time of a step, in its faster memory format."""
    batch, pixels, classes = NETWORKS[name]
    network = build(name, classes, size=(pixels, pixels)).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, pixels, pixels).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % classes
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    forward = torch.compile(network) if compiled else network
    times = []
    for _ in range(3 + steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times[3:])


def espalier(name, arguments):
    batch, pixels, classes = NETWORKS[name]
    result = rounds.espalier(
        arguments.espalier, "benchmark", "--train", name, "--batch", batch, "--imgsz", pixels, "--classes", classes,
        "--threads", arguments.threads, "--steps", arguments.steps, "--precision", "f32")
    return result["images_per_second"]


def compare(name, arguments):
    candidates = {"espalier f32": lambda: espalier(name, arguments)}
    for precision in arguments.peers.split(","):
        for compiled in [False, True] if arguments.compile else [False]:
            label = f"pytorch {precision}" + (" compiled" if compiled else "")
            candidates[label] = lambda p=precision, c=compiled: pytorch(name, arguments.steps, p, c)
    figures = rounds.measure(arguments.rounds, candidates)
    return rounds.summary(figures, "espalier f32", lambda ours, peer: ours / peer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--espalier", default="target/release/espalier")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--peers", default="f32", help="PyTorch's precisions, of f32 and bf16 (autocast)")
    parser.add_argument("--compile", action="store_true", help="PyTorch's torch.compile too (slow to start)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of a round, after 3 untimed ones")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {name: compare(name, arguments) for name in arguments.networks.split(",")}
    rounds.table("images/s", results)
    versions = {**VERSIONS, "commit": rounds.commit()}
    print(json.dumps({"compare": "train", **rounds.machine(arguments.threads), **versions, "results": results}))


if __name__ == "__main__":
    main()
