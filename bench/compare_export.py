"""Top-1 answers of exported files in ONNX Runtime and OpenVINO against those of the packages they were made of.

    python bench/compare_export.py best.espalier=DATA best.int8.espalier=DATA ...

DATA is a folder with val/CLASS/* or with the test files of an IDX set. Pictures are brought to the network's size with Pillow
and stored as PNG, so that every engine sees the same pixels; `espalier predict` answers for the package. A file is exported
by `espalier export`, which checks it as well. Engines that are not installed are named. See bench/README.md.
"""
import argparse
import ast
import gzip
import json
import pathlib
import tempfile

import numpy as np
import onnx
from PIL import Image

import rounds

BATCH = 1000


def pictures(data):
    """The pictures kept aside in a data set."""
    packed = data / "t10k-images-idx3-ubyte.gz"
    if packed.exists():
        raw = gzip.decompress(packed.read_bytes())
        count, height, width = np.frombuffer(raw, ">u4", 3, 4)
        return [Image.fromarray(p) for p in np.frombuffer(raw, np.uint8, offset=16).reshape(count, height, width)]
    return [Image.open(path) for path in sorted((data / "val").glob("*/*"))]


def fitted(picture, size, channels):
    """Cut to the network's aspect ratio around the centre, resized with antialiasing: the fit `crop`."""
    picture = picture.convert("L" if channels == 1 else "RGB")
    height, width = size
    scale = min(picture.width / width, picture.height / height)
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def tensor(picture, task):
    """The normalised input, as `espalier` computes it."""
    pixels = np.asarray(picture, np.float32).reshape(*task["size"], -1).transpose(2, 0, 1)
    mean, std = (np.float32(task[key])[:, None, None] for key in ("mean", "std"))
    return pixels * (1 / (np.float32(255) * std)) + -mean / std


def answers_of_package(espalier, package, files):
    """The label for each file."""
    labels = []
    for at in range(0, len(files), BATCH):
        labels += [line["label"] for line in rounds.espalier_lines(espalier, "predict", package, *files[at:at + BATCH])]
    return labels


def in_onnxruntime(path):
    """A function from inputs to outputs, one sample each."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return onnxruntime.__version__, lambda x: session.run(None, {name: x})[0]


def in_openvino(path):
    """As above."""
    import openvino
    # Otherwise the CPU may compute with 16-bit floats, which no file asks for.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return openvino.__version__.split("-")[0], lambda x: compiled([x])[0]


def task_of(path):
    """What the file's metadata say of its input."""
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if (said["bgr"], said["fit"]) != ("false", "crop"):
        raise SystemExit(f"{path}: this script brings pictures to networks that take RGB, cropped")
    size, mean, std = (json.loads(said[key]) for key in ("imgsz", "mean", "std"))
    labels = [label for _, label in sorted(ast.literal_eval(said["names"]).items())]
    return {"size": size, "mean": mean, "std": std, "labels": labels}


def compare(package, data, arguments, folder):
    """How many answers agree, by engine."""
    path = str(folder / "exported.onnx")
    exported = rounds.espalier(arguments.espalier, "export", package, "--out", path)
    task = task_of(path)
    shown = [fitted(picture, task["size"], len(task["mean"])) for picture in pictures(data)]
    files = [folder / f"{at:05}.png" for at in range(len(shown))]
    for picture, file in zip(shown, files):
        picture.save(file)
    want = answers_of_package(arguments.espalier, package, files)
    inputs = [tensor(picture, task)[None] for picture in shown]
    result = {"package": package.name, "data": data.name, "images": len(inputs), "nodes": exported["nodes"],
              "bytes": exported["bytes"], "checks": exported["checks"]}
    for engine, start in (("onnxruntime", in_onnxruntime), ("openvino", in_openvino)):
        try:
            version, run = start(path)
        except ImportError:
            print(f"{engine} is not installed")
            continue
        rows = [run(x)[0] for x in inputs]
        got = [task["labels"][int(row.argmax())] for row in rows]
        # By how much the first leads the second, as a share of the span, where the answer is another one.
        leads = [float((np.sort(row)[-1] - np.sort(row)[-2]) / np.ptp(row)) for row, g, w in zip(rows, got, want) if g != w]
        result[engine] = {"version": version, "same": len(want) - len(leads), "share": 1 - len(leads) / len(want),
                          "leads_of_others": leads[:20]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", metavar="PACKAGE=DATA")
    parser.add_argument("--espalier", default="target/release/espalier")
    arguments = parser.parse_args()
    results = []
    print(f"{'package':28}{'data':22}{'images':>7}{'ONNX Runtime':>14}{'OpenVINO':>10}")
    for pair in arguments.packages:
        package, _, data = pair.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            result = compare(pathlib.Path(package), pathlib.Path(data), arguments, pathlib.Path(folder))
        shares = [f"{result[e]['share']:.2%}" if e in result else "-" for e in ("onnxruntime", "openvino")]
        print(f"{result['package']:28}{result['data']:22}{result['images']:7}{shares[0]:>14}{shares[1]:>10}", flush=True)
        results.append(result)
    print(json.dumps({"results": results, "commit": rounds.commit(), **rounds.machine(None)}))


main()
