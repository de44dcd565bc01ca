"""What the comparisons share: calling Espalier, and rounds in which every candidate runs once, one after the other.

What slows the machine down for a while hits all candidates of a round alike, so the ratio is taken within each round and
the median over the rounds is reported, with the smallest and the largest beside it.
"""
import json
import os
import platform
import statistics
import subprocess


def espalier(binary, *arguments):
    """The JSON object that `espalier ARGUMENTS --json` ends with."""
    return espalier_lines(binary, *arguments)[-1]


def espalier_lines(binary, *arguments):
    """All JSON objects that `espalier ARGUMENTS --json` prints."""
    command = [binary, *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"status {done.returncode}: {' '.join(command)}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(rounds, candidates):
    """`{name: [figure of each round]}`; `candidates` maps names to functions that measure once."""
    figures = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            figures[name].append(candidate())
    return figures


def summary(figures, ours, ratio):
    """Medians, and for each peer how many times as fast as it `ours` is: median, least and most over the rounds."""
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ratios = {}
    for peer in figures:
        if peer != ours:
            each = [ratio(a, b) for a, b in zip(figures[ours], figures[peer])]
            ratios[peer] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return {"median": medians, "times_as_fast_as": ratios, "rounds": figures}


def table(unit, results):
    """One line for each network and candidate."""
    print(f"{'network':20}{'candidate':24}{unit:>14}{'ours is ... times as fast':>32}")
    for network, result in results.items():
        for name, median in result["median"].items():
            r = result["times_as_fast_as"].get(name)
            text = f"{r['median']:.3f} ({r['least']:.3f} to {r['most']:.3f})" if r else ""
            print(f"{network:20}{name:24}{median:14.2f}{text:>32}")


def machine(threads):
    """What the figures depend on besides the code."""
    model = "unknown"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads, "system": platform.platform()}


def commit():
    """The commit of the working tree, marked where files differ from it."""
    here = os.path.dirname(os.path.abspath(__file__))
    git = lambda *a: subprocess.run(["git", "-C", here, *a], capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("-changed" if git("status", "--porcelain", "-uno") else "")
