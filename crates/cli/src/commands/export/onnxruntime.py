"""Runs an ONNX file on samples: everything comes from stdin, and all outputs go to stdout as little-endian floats.

The first line of stdin is JSON: bytes of the file, threads, number of samples, shape and type of each input, names of the
outputs. Status 3 says that ONNX Runtime is not installed."""

import json
import sys

try:
    import numpy
    import onnxruntime
except ImportError:
    sys.exit(3)

stdin = sys.stdin.buffer
header = json.loads(stdin.readline())
model = stdin.read(header["model"])
rest = stdin.read()

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = header["threads"]
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = [x.name for x in session.get_inputs()]

at = 0
for _ in range(header["samples"]):
    feed = {}
    for name, x in zip(names, header["inputs"], strict=True):
        count = int(numpy.prod(x["shape"], dtype=numpy.int64))
        feed[name] = numpy.frombuffer(rest, x["type"], count, at).reshape(x["shape"])
        at += 4 * count
    for y in session.run(header["outputs"], feed):
        sys.stdout.buffer.write(numpy.ascontiguousarray(y, "<f4").tobytes())
