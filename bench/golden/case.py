"""One golden case: a graph in the text form, its tensors, and the file that holds all of them."""
import json
import re
import struct

import numpy as np
import torch

from integer_hash import uniform

TOLERANCE = 2e-5  # of max(1, the largest magnitude of the tensor); PyTorch's own f32 must stay within a tenth
DTYPES = {np.dtype("float32"): "f32", np.dtype("int32"): "i32"}


def kind(array):
    """The type in the text form, like f32[2,3]."""
    return f"{DTYPES[array.dtype]}[{','.join(map(str, array.shape))}]"


def split(line):
    """Names made, names read and the rest of a line such as `y, m = Op(x, w) a=1`."""
    made, op, read, attrs = re.fullmatch(r"(.*?) = (\w+)\((.*?)\)(.*)", line.strip()).groups()
    names = lambda text: [n.strip() for n in text.split(",") if n.strip()]
    return names(made), names(read), f"{op}({read}){attrs}"


def lines(body):
    return [split(line) for line in body.strip().splitlines()]


def graph_text(roles, body, types, outputs):
    """`roles` holds the keyword of each value that is given; `types` the type of every value."""
    declared = [f"{role} {name}: {types[name]}" for name, role in roles.items()]
    nodes = [f"{', '.join(f'{n}: {types[n]}' for n in made)} = {call}" for made, _, call in lines(body)]
    return "\n".join(declared + nodes + [f"output {name} = {name}" for name in outputs]) + "\n"


def as_torch(array, dtype):
    floats = array.dtype == np.float32
    return torch.from_numpy(np.array(array)).to(dtype if floats else torch.int64)


def as_numpy(tensor, like=None):
    if tensor.is_floating_point():
        return tensor.detach().numpy().astype(np.float32)
    return tensor.numpy().astype(like or tensor.numpy().dtype)


class Cases:
    """Collects cases by [`Cases.add`] and writes them."""

    def __init__(self):
        self.texts, self.tensors, self.worst = {}, {}, 0.0

    def add(self, name, body, forward, inputs, weights=None, statistics=None, grads=None, outputs=None, backward=None):
        """Adds the case `name`.

        `forward` takes the given tensors by name and returns all values in the order in which `body` makes them.
        The gradients are those of sum(seed * first output) for `grads` (default: all float inputs and weights).
        `backward` are nodes that make the same gradients by explicit gradient ops: `dx` from `dy`, `x`, `y`, ...
        """
        assert f"{name}/graph" not in self.texts, name
        weights, statistics = weights or {}, statistics or {}
        roles = {k: "input" for k in inputs} | {k: "weight" for k in weights} | {k: "statistic" for k in statistics}
        given = inputs | weights | statistics
        if grads is None:
            grads = [k for k in inputs | weights if given[k].dtype == np.float32]
        made = [n for names, _, _ in lines(body) for n in names]
        outputs = outputs or made
        seed_of = outputs[0] if grads else None
        values, seed, gradients = self.compare(name, forward, given, made, grads, seed_of)
        types = {k: kind(v) for k, v in (given | values).items()}
        self.texts[f"{name}/graph"] = graph_text(roles, body, types, outputs)
        self.store(f"{name}/in", given)
        self.store(f"{name}/out", {k: values[k] for k in outputs})
        if grads:
            self.store(f"{name}/seed", {seed_of: seed})
            self.store(f"{name}/grad", gradients)
        if backward:
            self.texts[f"{name}/backward"] = self.backward_text(backward, types, seed_of, grads)

    def compare(self, name, forward, given, made, grads, seed_of):
        """Results in f64, checked against PyTorch's f32."""
        exact, rounded = (
            evaluate(name, forward, given, made, grads, seed_of, d) for d in (torch.float64, torch.float32))
        pairs = [(exact[0][k], rounded[0][k], k) for k in made] + [(exact[2][k], rounded[2][k], "d" + k) for k in grads]
        for want, got, value in pairs:
            error = deviation(want, got)
            assert error <= TOLERANCE / 10, f"{name}: {value} differs by {error:.1e} between f32 and f64"
            self.worst = max(self.worst, error)
        return exact

    @staticmethod
    def backward_text(body, types, seed_of, grads):
        types = types | {f"d{k}": types[k] for k in [*grads, seed_of]}
        made = [n for names, _, _ in lines(body) for n in names]
        read = dict.fromkeys(n for _, names, _ in lines(body) for n in names if n not in made)
        return graph_text({k: "input" for k in read}, body, types, made)

    def store(self, prefix, arrays):
        self.tensors |= {f"{prefix}/{k}": v for k, v in arrays.items()}

    def save(self, path):
        path.write_bytes(safetensors(self.tensors, self.texts))


def evaluate(name, forward, given, made, grads, seed_of, dtype):
    """All values, the seed and the gradients, computed in `dtype` and rounded to f32."""
    tensors = {k: as_torch(v, dtype) for k, v in given.items()}
    for k in grads:
        tensors[k].requires_grad_()
    result = forward(**tensors)
    values = dict(zip(made, result if isinstance(result, tuple) else (result,), strict=True))
    seed, gradients = None, {}
    if grads:
        y = values[seed_of]
        seed = uniform(f"{name}/seed/{seed_of}", tuple(y.shape), 1.0)
        found = torch.autograd.grad(y, [tensors[k] for k in grads], as_torch(seed, dtype))
        gradients = {k: as_numpy(g) for k, g in zip(grads, found)}
    return {k: as_numpy(v) for k, v in values.items()}, seed, gradients


def deviation(want, got):
    """Largest difference relative to max(1, largest magnitude)."""
    want, got = want.astype(np.float64), got.astype(np.float64)
    assert np.isfinite(want).all() and np.isfinite(got).all() and want.shape == got.shape
    return float(np.max(np.abs(want - got), initial=0) / max(1.0, np.max(np.abs(want), initial=0)))


def safetensors(tensors, metadata):
    """The file format of that name, written by ourselves because its library orders metadata at random."""
    header, blobs, at = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    names = {"f32": "F32", "i32": "I32"}
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):  # keeps all aligned
        blob = np.ascontiguousarray(array).tobytes()
        entry = {"dtype": names[DTYPES[array.dtype]], "shape": list(array.shape)}
        header[name] = entry | {"data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def numbers(name, shape, lo=-2.0, hi=2.0):
    """f32 between `lo` and `hi` from the hash of `name`."""
    middle, bound = (lo + hi) / 2, (hi - lo) / 2
    return (uniform(name, tuple(shape), bound).astype(np.float64) + middle).astype(np.float32).reshape(shape)


def halves(name, shape, lo=-2.0, hi=2.0):
    """Multiples of 1/2, so that equal values occur."""
    return (np.round(numbers(name, shape, lo, hi) * 2) / 2).astype(np.float32).reshape(shape)


def indices(name, shape, limit):
    """i32 in 0..limit."""
    return np.floor(numbers(name, shape, 0.0, limit * 0.9999)).astype(np.int32)
