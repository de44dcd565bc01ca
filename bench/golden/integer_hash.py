"""Numbers from an integer hash, so that Python and Rust make the same bits without sharing a file.

The formula is written down in tests/golden/README.md; the Rust side must follow it exactly.
"""
import numpy as np


def fnv1a32(name):
    """FNV-1a of the UTF-8 bytes (Fowler, Noll and Vo)."""
    h = 0x811C9DC5
    for byte in name.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h


def mix32(x):
    """A bijection of 32-bit integers with low bias (`lowbias32` of Wellons 2018); `x` is an array of uint32."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def bits(name, count):
    """32 bits for each of the elements 0..count of `name`."""
    return mix32(mix32(np.arange(count, dtype=np.uint32)) ^ np.uint32(fnv1a32(name)))


def uniform(name, shape, bound):
    """f32 in -bound..bound, row-major: a multiple of 2^-23 in -1..1, times `bound` in f64, rounded once to f32."""
    count = int(np.prod(shape, dtype=np.int64))
    unit = (bits(name, count) >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1.0
    return (unit * np.float64(bound)).astype(np.float32).reshape(shape)


def below(name, count, limit):
    """Integers in 0..limit: the remainder of the bits."""
    return (bits(name, count) % np.uint32(limit)).astype(np.int64)
