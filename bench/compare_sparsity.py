"""Latency of int8 packages over the share of their weights that is zero, as a share of the latency with none.

    python bench/compare_sparsity.py resnet18.espalier mobilenet_v2.espalier [--threads 2] [--rounds 5]

Each share is `espalier benchmark --random-sparsity SHARE`: random blocks of 2 outputs x 4 inputs in all layers but the
first, the last and depthwise ones. Packages come from `espalier import`. See bench/README.md.
"""
import argparse
import json
import pathlib
import statistics

import rounds

SHARES = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.75,0.8,0.85,0.9,0.95"


def benchmark(package, arguments, *more):
    """A result of the package as it is, or with zeros."""
    return rounds.espalier(
        arguments.espalier, "benchmark", package, "--threads", arguments.threads, "--runs", arguments.runs, *more)


def curve(package, arguments):
    """For each share: multiply-accumulates that are left, and the latency over that without zeros."""
    shares = arguments.shares.split(",")
    left = {}

    def sparse(share):
        result = benchmark(package, arguments, "--random-sparsity", share)
        left[share] = result["macs"]
        return result[arguments.figure]

    figures = rounds.measure(arguments.rounds, {
        "dense": lambda: benchmark(package, arguments)[arguments.figure],
        **{share: lambda share=share: sparse(share) for share in shares},
    })
    ratios = {share: [a / b for a, b in zip(figures[share], figures["dense"])] for share in shares}
    points = {
        share: {"macs": left[share], "ratio": statistics.median(each), "least": min(each), "most": max(each)}
        for share, each in ratios.items()
    }
    return {"dense_ms": statistics.median(figures["dense"]), "shares": points, "rounds": figures}


def table(results):
    """One line for each network: dense milliseconds, then the ratio at each share of zeros."""
    shares = list(next(iter(results.values()))["shares"])
    print(f"{'network':20}{'dense ms':>9}" + "".join(f"{float(share):>7.0%}" for share in shares))
    for network, result in results.items():
        ratios = "".join(f"{result['shares'][share]['ratio']:7.2f}" for share in shares)
        print(f"{network:20}{result['dense_ms']:9.2f}{ratios}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=pathlib.Path)
    parser.add_argument("--espalier", default="target/release/espalier")
    parser.add_argument("--shares", default=SHARES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20, help="timed runs of a round, after 5 untimed ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figure", default="p50_ms", help="min_ms where other programs use the machine too")
    arguments = parser.parse_args()
    results = {package.stem: curve(package, arguments) for package in arguments.packages}
    table(results)
    about = {"compare": "sparsity", "figure": arguments.figure, **rounds.machine(arguments.threads)}
    print(json.dumps({**about, "commit": rounds.commit(), "results": results}))


if __name__ == "__main__":
    main()
