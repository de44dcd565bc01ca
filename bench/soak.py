#!/usr/bin/env python3
"""Runs an agent for a long time and says whether it stays as it was.

    bench/soak.py --agent target/release/espalier-agent --config bench/soak.toml --minutes 30 --out bench/runs/DATE-soak

Needs nothing but Python. Reads /metrics every few seconds into OUT.csv and writes OUT.json: the slope of resident memory
after warm-up (least squares, MiB an hour), and of each pipeline its rates, latency and counts. Fails (status 1) where
memory grows by more than --slope, where frames do not add up at any reading, where the 99th percentile of the end-to-end
latency of a pipeline under `latest` (no frame of an `every` pipeline is ever skipped) is above two frame times, or where
the agent does not end within a second.
"""

import argparse
import csv
import json
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

MIB = 1024 * 1024


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="target/release/espalier-agent")
    parser.add_argument("--config", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=None, help="minutes that do not count; default: a fifth, at most 5")
    parser.add_argument("--every", type=float, default=5, help="seconds between readings")
    parser.add_argument("--slope", type=float, default=1.0, help="MiB an hour that memory may grow")
    parser.add_argument("--out", required=True, help="path without its ending")
    return parser.parse_args()


def metrics(url):
    """Values by metric and pipeline ('' of the process, sink/NAME of a sink); quantiles as NAME:QUANTILE."""
    values = {}
    with urllib.request.urlopen(url + "metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            found = re.fullmatch(r"espalier_(\w+)(?:\{(.*)\})? (\S+)", line)
            if found:
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
                name = found[1] + (":" + labels["quantile"] if "quantile" in labels else "")
                of = "sink/" + labels["sink"] if "sink" in labels else labels.get("pipeline", "")
                values[name, of] = float(found[3])
    return values


def slope(points):
    """Least squares of (seconds, bytes), in MiB an hour."""
    if len(points) < 3:
        return None
    times, sizes = zip(*points)
    time_mean, size_mean = statistics.mean(times), statistics.mean(sizes)
    spread = sum((t - time_mean) ** 2 for t in times)
    return sum((t - time_mean) * (s - size_mean) for t, s in points) / spread * 3600 / MIB


def start(args):
    """The agent, its address, and the lines that it says."""
    agent = subprocess.Popen([args.agent, "--config", args.config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said, url, ready = [], [], threading.Event()

    def listen():
        for line in agent.stderr:
            said.append(line.rstrip())
            if "status page and metrics: " in line:
                url.append(line.split(": ")[-1].strip())
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen)
    listener.start()
    ready.wait(60)
    if not url:
        agent.kill()
        sys.exit("the agent did not start:\n" + "\n".join(said))
    return agent, url[0], said, listener


def read(agent, url, args, writer):
    """Readings until the time is over: (seconds, metrics)."""
    begun, readings = time.monotonic(), []
    while time.monotonic() - begun < args.minutes * 60 and agent.poll() is None:
        time.sleep(args.every)
        now, values = time.monotonic() - begun, metrics(url)
        readings.append((now, values))
        for (name, pipeline), value in sorted(values.items()):
            writer.writerow([f"{now:.1f}", pipeline, name, value])
    return readings


def pipeline_figures(name, readings, faults):
    warm = [values for _, values in readings]
    last = warm[-1]
    of = lambda metric: last[metric, name]
    counts = {word: int(of(f"frames_{word}_total")) for word in ("seen", "processed", "skipped", "broken")}
    for values in warm:
        seen, *parts = (values[f"frames_{word}_total", name] for word in ("seen", "processed", "skipped", "broken"))
        if seen != sum(parts):
            faults.append(f"{name}: {seen} frames seen, {parts} processed, skipped and broken")
    mean = lambda metric: statistics.mean(values[metric, name] for values in warm)
    worst = lambda metric: max(values[metric, name] for values in warm)
    figures = {
        **counts,
        "camera_fps": round(mean("camera_fps"), 3),
        "process_fps": round(mean("process_fps"), 3),
        "inference_p50_ms": round(mean("inference_ms:0.5"), 2),
        "inference_p99_ms": round(worst("inference_ms:0.99"), 2),
        "latency_p50_ms": round(mean("latency_ms:0.5"), 2),
        "latency_p99_ms": round(worst("latency_ms:0.99"), 2),
        "seen_bytes": int(of("seen_bytes_total")),
        "insights": int(of("insights_total")),
        "insight_bytes": int(of("insight_bytes_total")),
        "samples": int(of("samples_total")),
        "drift_scenes": int(of("drift_scenes_total")),
        "drifting": int(of("drifting")),
    }
    if figures["camera_fps"] > 0:
        figures["two_frames_ms"] = round(2000 / figures["camera_fps"], 1)
        if figures["latency_p99_ms"] > figures["two_frames_ms"]:
            faults.append(f"{name}: latency p99 {figures['latency_p99_ms']} ms, two frames are {figures['two_frames_ms']} ms")
    else:
        faults.append(f"{name}: its source gave nothing")
    return figures


def sink_figures(name, last):
    of = lambda metric: int(last[metric, name])
    figures = ("up", "delivered_total", "queue_depth", "dropped_total", "failures_total")
    return {**{figure: of("sink_" + figure) for figure in figures}, "sent_bytes": of("sent_bytes_total")}


def main():
    args = options()
    out, faults = pathlib.Path(args.out), []
    out.parent.mkdir(parents=True, exist_ok=True)
    agent, url, said, listener = start(args)
    try:
        with open(out.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["seconds", "pipeline", "metric", "value"])
            readings = read(agent, url, args, writer)
    finally:
        asked = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        status = agent.wait(60)
    ended = time.monotonic() - asked
    listener.join(10)
    if status != 0 or ended > 1:
        faults.append(f"the agent ended with {status} after {ended:.2f} s")
    warm_up = 60 * (args.warm_up if args.warm_up is not None else min(5, args.minutes / 5))
    warm = [(at, values) for at, values in readings if at >= warm_up]
    if len(warm) < 3:
        sys.exit("too few readings after warm-up: run longer")
    memory = [(at, values["resident_memory_bytes", ""]) for at, values in warm]
    grows = slope(memory)
    if grows > args.slope:
        faults.append(f"memory grows by {grows:.2f} MiB an hour")
    seconds = warm[-1][0] - warm[0][0]
    cpu = [values["cpu_seconds_total", ""] for _, values in warm]
    all_names = {name for _, name in warm[-1][1] if name}
    names = sorted(name for name in all_names if not name.startswith("sink/"))
    sinks = sorted(all_names.difference(names))
    ends = {}
    for line in said:
        found = re.search(r"(\d+) frames seen = (\d+) processed \+ (\d+) skipped \+ (\d+) broken", line)
        if found:
            seen, *parts = map(int, found.groups())
            ends[line.split(" ")[2].rstrip(":")] = [seen, *parts]
            if seen != sum(parts):
                faults.append(line)
    if sorted(ends) != names:
        faults.append(f"the last counts are of {sorted(ends)}, the pipelines are {names}")
    result = {
        "minutes": round(readings[-1][0] / 60, 2),
        "memory_slope_mib_per_hour": round(grows, 3),
        "memory_mib": {"after_warm_up": round(memory[0][1] / MIB, 2), "last": round(memory[-1][1] / MIB, 2), "most": round(max(size for _, size in memory) / MIB, 2)},
        "cpu_cores": round((cpu[-1] - cpu[0]) / seconds, 3),
        "ended_s": round(ended, 3),
        "pipelines": {name: {**pipeline_figures(name, warm, faults), "at_the_end": ends.get(name)} for name in names},
        "sinks": {name.removeprefix("sink/"): sink_figures(name, warm[-1][1]) for name in sinks},
        "warnings": [line for line in said if " warning " in line or " error " in line][:20],
        "faults": faults,
    }
    text = json.dumps(result, indent=1)
    out.with_suffix(".json").write_text(text + "\n")
    print(text)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
