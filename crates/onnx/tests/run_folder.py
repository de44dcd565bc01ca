"""Runs every NAME.onnx of a folder: NAME.in holds the inputs, NAME.json their shapes and types, NAME.out gets the outputs.

    python run_folder.py FOLDER"""

import json
import pathlib
import sys

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 3
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    raw, at, feed = path.with_suffix(".in").read_bytes(), 0, {}
    for given in json.loads(path.with_suffix(".json").read_text()):
        count = int(numpy.prod(given["shape"], dtype=numpy.int64))
        feed[given["name"]] = numpy.frombuffer(raw, given["type"], count, at).reshape(given["shape"])
        at += 4 * count
    outputs = session.run(None, feed)
    path.with_suffix(".out").write_bytes(b"".join(numpy.ascontiguousarray(y, "<f4").tobytes() for y in outputs))
