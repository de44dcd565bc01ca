"""Small pictures in every corner of the formats that Espalier reads, and what Pillow makes of them.

    python bench/golden/pictures.py

writes tests/golden/pictures/: the files, and expected.json with the pixels of each (grey or RGB, 8 bits, upright, laid
over white; of an animation the first frame) and how far a value may be off. JPEG and lossy WebP leave rounding open.
"""

import io
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OUT = os.path.join(ROOT, "tests", "golden", "pictures")
WIDTH, HEIGHT = 24, 16


def scene(width=WIDTH, height=HEIGHT, shift=0):
    """Smooth colours and one sharp rectangle: (height, width, 3) u8."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 9 + shift, y * 13 + 20, 200 - x * 4 - y * 3], -1).astype(np.int64)
    rgb[height // 4 : height // 2, width // 3 : width // 2] = [220, 40, 30]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, **options)
    return out.getvalue()


def without_adobe(data):
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]


def as_ycck(data):
    """The same numbers, read as luma, chroma and black: the last byte of the Adobe segment is the transform."""
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def packed(samples, depth):
    """Rows of samples (height, values a row) as PNG stores them."""
    if depth == 16:
        return samples.astype(">u2").tobytes()
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def filtered(samples, depth):
    rows = packed(samples, depth)
    size = len(rows) // len(samples)
    return b"".join(b"\0" + rows[i : i + size] for i in range(0, len(rows), size))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, kind, depth, interlaced=False, between=()):
    """samples: (height, width, channels)."""
    height, width, channels = samples.shape
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        body = b"".join(filtered(p.reshape(p.shape[0], -1), depth) for p in passes if p.size)
    else:
        body = filtered(samples.reshape(height, -1), depth)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *between, (b"IDAT", zlib.compress(body, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def pngs():
    rgb = scene()
    grey = rgb[..., :1]
    wide = rgb.astype(np.uint16) * 257
    alpha = np.broadcast_to((np.arange(WIDTH) * 11 % 256).astype(np.uint8)[None, :, None], (HEIGHT, WIDTH, 1))
    files = {}
    for depth in (1, 2, 4):
        files[f"grey{depth}.png"] = png(grey >> (8 - depth), 0, depth)
        files[f"grey{depth}-interlaced.png"] = png(grey >> (8 - depth), 0, depth, interlaced=True)
    for depth in (1, 2, 4, 8):
        n = min(2**depth, 200)
        palette = bytes(v for i in range(n) for v in (i * 255 // (n - 1), 255 - i, (i * 37) % 256))
        index = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) % n).astype(np.uint8)[..., None]
        extra = [(b"PLTE", palette)]
        files[f"palette{depth}.png"] = png(index, 3, depth, between=extra)
        extra = [*extra, (b"tRNS", bytes([0, 128]))]
        files[f"palette{depth}-clear.png"] = png(index, 3, depth, interlaced=True, between=extra)
    files["rgb-interlaced.png"] = png(rgb, 2, 8, interlaced=True)
    files["rgba.png"] = png(np.concatenate([rgb, alpha], -1), 6, 8)
    files["grey-alpha.png"] = png(np.concatenate([grey, alpha], -1), 4, 8)
    files["rgb-clear.png"] = png(rgb, 2, 8, between=[(b"tRNS", struct.pack(">HHH", 220, 40, 30))])
    files["rgb16.png"] = png(wide, 2, 16)
    files["rgb16-interlaced.png"] = png(wide, 2, 16, interlaced=True)
    return files


def jpegs():
    rgb = Image.fromarray(scene())
    cmyk = Image.fromarray(np.concatenate([255 - scene(), (scene()[..., 1:2] // 3)], -1), "CMYK")
    adobe = jpeg(cmyk)
    odd = Image.fromarray(scene(23, 15))
    return {
        "cmyk-adobe.jpg": adobe,
        "cmyk-plain.jpg": without_adobe(adobe),
        "cmyk-progressive.jpg": jpeg(cmyk, progressive=True),
        "ycck.jpg": as_ycck(adobe),
        "rgb-adobe.jpg": jpeg(rgb, keep_rgb=True),
        "odd-420.jpg": jpeg(odd, subsampling="4:2:0"),
        "odd-422-progressive.jpg": jpeg(odd, subsampling="4:2:2", progressive=True),
        "restarts.jpg": jpeg(rgb, subsampling="4:4:4", restart_marker_blocks=2),
        "grey-progressive.jpg": jpeg(rgb.convert("L"), progressive=True),
    }


def animations():
    frames = [Image.fromarray(scene(shift=s)) for s in (0, 60, 120)]
    files = {}
    for name, options in (
        ("animated.gif", {}),
        ("animated.png", {}),
        ("animated.webp", {"lossless": True}),
        ("animated-lossy.webp", {"quality": 95}),
    ):
        out = io.BytesIO()
        frames[0].save(out, name.rsplit(".")[1], save_all=True, append_images=frames[1:], duration=50, **options)
        files[name] = out.getvalue()
    for name, options in (("still.webp", {"lossless": True}), ("alpha.webp", {"quality": 95})):
        image = frames[0].copy()
        if name == "alpha.webp":
            image.putalpha(Image.fromarray((np.arange(WIDTH * HEIGHT) % 256).astype(np.uint8).reshape(HEIGHT, WIDTH)))
        out = io.BytesIO()
        image.save(out, "WEBP", exact=True, **options)
        files[name] = out.getvalue()
    return files


def expected(data):
    """(height, width, 1 or 3), rounded where Pillow cuts off."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA"):
        values = np.asarray(image).astype(np.int64)
        colour, alpha = values[..., :-1], values[..., -1:]
        return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    values = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    return values.reshape(image.height, image.width, -1)


def tolerance(name):
    lossy = name.endswith(".jpg") or name in ("animated-lossy.webp", "alpha.webp")
    return 6 if lossy else 0


def main():
    os.makedirs(OUT, exist_ok=True)
    answers = {}
    for name, data in sorted({**pngs(), **jpegs(), **animations()}.items()):
        with open(os.path.join(OUT, name), "wb") as f:
            f.write(data)
        pixels = expected(data)
        height, width, channels = pixels.shape
        answers[name] = {
            "width": width,
            "height": height,
            "channels": channels,
            "tolerance": tolerance(name),
            "pixels": pixels.tobytes().hex(),
        }
    with open(os.path.join(OUT, "expected.json"), "w") as f:
        json.dump(answers, f, indent=0)
        f.write("\n")


if __name__ == "__main__":
    main()
