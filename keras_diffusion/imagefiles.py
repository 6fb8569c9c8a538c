"""Grids of images as PNG and GIF, with NumPy and the standard library alone: drawing must not need an image library."""

import struct
import zlib

import numpy as np

from keras_diffusion.errors import UserError

_ZOOM = 2  # MNIST's 28 pixels are small on a screen
_GAP = 2
_GIF_SIDE = 65535
_MAX_PIXELS = 2**29  # of a picture; viewers refuse less


def grid(images, labels, names):
    """Images as rows, a label a row; ten a row where the network has no classes.

    Args:
        images: [..., N, H, W, C], label-major.
        labels: int [N].
        names: name of each label; empty without classes.

    Returns:
        ([..., R, columns, H, W, C], names of the rows or None).
    """
    rows = list(dict.fromkeys(labels.tolist()))
    columns = labels.size // len(rows) if names else min(10, labels.size)
    missing = -labels.size % columns  # black
    padding = [(0, 0)] * (images.ndim - 4) + [(0, missing)] + [(0, 0)] * 3
    images = np.pad(images, padding)
    shape = (*images.shape[:-4], -1, columns, *images.shape[-3:])
    return images.reshape(shape), [names[label] for label in rows] if names else None


def check(suffix, count, image_shape, *, columns):
    """Whether so many images make a picture of this kind.

    Args:
        suffix: ".png" or ".gif".
        count: of the images.
        image_shape: (H, W, C).
        columns: images a row.

    Raises:
        UserError: where they don't.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise UserError(f"--out: expected .npy for images of {channels} channels, got {suffix}")
    sides = (-(-count // columns) * (_ZOOM * height + _GAP), columns * (_ZOOM * width + _GAP))
    if suffix == ".gif" and max(sides) + _GAP > _GIF_SIDE:
        raise UserError(
            f"--out: expected at most {_GIF_SIDE} pixels a side in a .gif, got {max(sides) + _GAP}; ask for fewer images or a .png"
        )
    if sides[0] * sides[1] > _MAX_PIXELS:
        raise UserError(
            f"--out: expected at most {_MAX_PIXELS} pixels in a {suffix}, got {sides[0] * sides[1]}; ask for fewer images or a .npy"
        )


def tile(rows, *, zoom=_ZOOM, gap=_GAP):
    """One picture of a grid of images.

    Args:
        rows: float [R, columns, H, W, C] in [0, 1], C 1 or 3.
        zoom: pixels a side for each of an image's.
        gap: pixels of mid-grey between images and around them.

    Returns:
        uint8 [height, width, C].
    """
    pixels = np.round(np.clip(rows, 0, 1) * 255).astype(np.uint8)
    pixels = pixels.repeat(zoom, axis=2).repeat(zoom, axis=3)
    around = [(0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0)]
    pixels = np.pad(pixels, around, constant_values=96)
    height, width = (pixels.shape[i] * pixels.shape[i + 2] for i in (0, 1))
    picture = pixels.swapaxes(1, 2).reshape(height, width, -1)
    return np.pad(picture, [(0, gap), (0, gap), (0, 0)], constant_values=96)


def png(picture):
    """A picture as the bytes of a PNG file.

    Args:
        picture: uint8 [H, W, 1] or [H, W, 3].

    Reference: PNG specification, ISO/IEC 15948.
    """
    height, width, channels = picture.shape
    header = struct.pack(">2I5B", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    lines = np.pad(picture.reshape(height, -1), [(0, 0), (1, 0)])  # filter 0 before each line
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gif(pictures, *, milliseconds=80, hold=1500):
    """Pictures as the bytes of an endless GIF animation; colours are brought to 6 x 7 x 6 of them.

    Args:
        pictures: uint8 [F, H, W, 1] or [F, H, W, 3].
        milliseconds: for each picture.
        hold: for the last one.

    Reference: GIF89a specification, CompuServe 1990.
    """
    frames, height, width, channels = pictures.shape
    palette, indices = _grey(pictures) if channels == 1 else _colours(pictures)
    head = struct.pack("<2H3B", width, height, 0xF7, 0, 0) + palette
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
    parts = [b"GIF89a", head, loop]
    for k, frame in enumerate(indices):
        wait = hold if k == frames - 1 else milliseconds
        parts.append(b"\x21\xf9\x04\x04" + struct.pack("<H", wait // 10) + b"\x00\x00")
        parts.append(struct.pack("<B4HB", 0x2C, 0, 0, width, height, 0) + b"\x08")
        packed = _lzw(frame.tobytes())
        blocks = [packed[i : i + 255] for i in range(0, len(packed), 255)]
        parts += [bytes([len(block)]) + block for block in blocks] + [b"\x00"]
    return b"".join(parts) + b"\x3b"


def _grey(pictures):
    return np.arange(256, dtype=np.uint8).repeat(3).tobytes(), pictures[..., 0]


def _colours(pictures):
    levels = np.array([6, 7, 6])
    places = np.indices((6, 7, 6)).reshape(3, -1).T * 255 // (levels - 1)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(places)] = places
    near = np.round(pictures / 255.0 * (levels - 1)).astype(np.int64)
    return palette.tobytes(), (near @ np.array([42, 6, 1])).astype(np.uint8)


def _lzw(data):
    """GIF's variant of Lempel, Ziv & Welch, of bytes."""
    clear, end, most = 256, 257, 4096
    table: dict = {}
    bits, number, prefix = 9, end + 1, data[0]
    buffer, held, out = clear, bits, bytearray()  # bits that aren't a byte yet, and how many
    for byte in data[1:]:
        key = prefix << 8 | byte
        if key in table:
            prefix = table[key]
            continue
        buffer |= prefix << held
        held += bits
        if number < most:
            table[key] = number
            bits += number == 1 << bits
            number += 1
        else:
            buffer |= clear << held
            held += bits
            table, bits, number = {}, 9, end + 1
        prefix = byte
        whole = held // 8
        out += (buffer & (1 << 8 * whole) - 1).to_bytes(whole, "little")
        buffer >>= 8 * whole
        held -= 8 * whole
    buffer |= prefix << held
    held += bits
    bits += number == 1 << bits and bits < 12
    buffer |= end << held
    return bytes(out) + buffer.to_bytes((held + bits + 7) // 8, "little")
