"""Bad and odd files as they turn up in real folders, each with what must become of it.

`ODD_FILES` is the table: one row per file, with the bytes, and either the mode and pixels under which it is
counted or the reason for which it is put on the quarantine list.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def photo(height: int = 52, width: int = 43, channels: int = 3, seed: int = 0) -> Array:
    """A smooth uint8 image with some texture, H×W×C (H×W for one channel): what lossy codecs are made for."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [120 + 80 * np.sin((c + 1) * x / 7 + seed) + 40 * np.cos(y / (3 + c)) for c in range(channels)]
    noisy = np.stack(planes, axis=2) + rng.normal(0, 4, (height, width, channels))
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def encoded(image: Array | Image.Image, format_: str, **options: Any) -> bytes:
    """An image file in memory, written by Pillow."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format_, **options)
    return buffer.getvalue()


def tiff(image: Array, **options: Any) -> bytes:
    """A TIFF in memory, written by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def npy(array: Array) -> bytes:
    """A .npy file in memory; objects are pickled."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(height: int, width: int, depth: int = 8) -> bytes:
    """A few bytes of PNG whose header promises height×width RGB pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def jpeg_claiming(height: int, width: int) -> bytes:
    """A small JPEG whose frame header promises height×width pixels."""
    data = bytearray(encoded(photo(), "JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_claiming(height: int, width: int) -> bytes:
    """A small TIFF whose tags promise height×width pixels."""
    data = bytearray(encoded(photo(), "TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for k in range(entries):
        tag = struct.unpack_from("<H", data, at + 2 + 12 * k)[0]
        if tag in (256, 257):
            struct.pack_into("<HIHH", data, at + 4 + 12 * k, 4, 1, 0, 0)
            struct.pack_into("<I", data, at + 10 + 12 * k, height if tag == 257 else width)
    return bytes(data)


def jpeg2000_claiming(height: int, width: int) -> bytes:
    """A small JPEG 2000 codestream whose SIZ marker promises height×width pixels."""
    data = bytearray(imagecodecs.jpeg2k_encode(photo(), level=0, codecformat="j2k"))
    data[8:16] = struct.pack(">II", width, height)
    return bytes(data)


class Tripwire:
    """Unpickling it would be noticed: loading a data set must never run code that lies in it."""

    pulled = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _pull, ()


def _pull() -> None:
    Tripwire.pulled = True


@dataclass(frozen=True)
class Odd:
    """One file and its fate.

    Attributes:
        mode: the mode under which it is counted; "" when it must be quarantined.
        reason: pattern that the reason of the quarantine must match.
        pixels: what is counted, where that can be said independently: H×W×C.
        remark: pattern of a remark that must be made.
    """

    name: str
    data: bytes
    mode: str = ""
    reason: str = ""
    pixels: Array | None = field(default=None, compare=False)
    remark: str = ""

    def __str__(self) -> str:
        return self.name


RGB = photo()
GRAY = photo(channels=1)
DEEP = RGB.astype(np.uint16) * 257 + 3
DEEP_GRAY = np.ascontiguousarray(DEEP[..., 0])
_JPEG = encoded(RGB, "JPEG", quality=90)
_PNG = encoded(RGB, "PNG")
_PALETTE = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
_RGBA = np.dstack([RGB, np.where(np.arange(RGB.shape[1]) < 5, 0, 255) + np.zeros(RGB.shape[:2], int)]).astype(np.uint8)
_CMYK = Image.fromarray(RGB).convert("CMYK")
_FLOAT = np.where(RGB[..., 0] > 200, np.nan, RGB[..., 0] / 255).astype(np.float32)
_BANDS = np.random.default_rng(3).integers(0, 65536, (*GRAY.shape, 5), dtype=np.uint16)
_MASKED_TIFF = DEEP_GRAY.copy()
_MASKED_TIFF[:4] = 9999
_FRAMES = [Image.fromarray(photo(seed=k)) for k in range(3)]
_APNG = encoded(_FRAMES[0], "PNG", save_all=True, append_images=_FRAMES[1:], duration=40)
_GIF = encoded(_FRAMES[0], "GIF", save_all=True, append_images=_FRAMES[1:], duration=40)
_WEBPS = encoded(_FRAMES[0], "WEBP", save_all=True, append_images=_FRAMES[1:], duration=40, lossless=True)
_TRANSPARENT_PALETTE = encoded(_PALETTE, "PNG", transparency=3)


def _pillow(data: bytes, mode: str = "RGB") -> Array:
    """What Pillow sees in a file: the reference for formats that Pillow reads rightly."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0xFF
    return bytes(changed)


def _with_stray_bytes(jpeg: bytes) -> bytes:
    """Bytes between two segments that belong to none: some cameras leave them."""
    at = jpeg.find(b"\xff\xdb")
    return jpeg[:at] + b"\0\0\0" + jpeg[at:]


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RGB, "JPEG", quality=90, exif=exif)


def _multipage() -> bytes:
    return encoded(_FRAMES[0], "TIFF", save_all=True, append_images=_FRAMES[1:])


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _most(data: bytes) -> bytes:
    return data[: len(data) * 9 // 10]


def _bad(name: str, data: bytes, reason: str) -> Odd:
    return Odd(name, data, reason=reason)


_CUT = r"[Tt]runcated|[Pp]remature|incomplete|damaged|corrupted|failed to read|too small|decoder"
_BOMB = r"decompression bomb"
_NO_IMAGE = r"not an image: its first bytes fit no known format"

ODD_FILES: list[Odd] = [
    # Truncated, at a fifth, at half and just before the end.
    *(
        _bad(f"cut-{part:03.0f}.{suffix}", data[: int(len(data) * part / 100)], rf"{_CUT}|{_NO_IMAGE}")
        for suffix, data in {
            "jpg": _JPEG,
            "png": _PNG,
            "gif": encoded(_PALETTE, "GIF"),
            "webp": encoded(RGB, "WEBP"),
            "bmp": encoded(RGB, "BMP"),
            "tif": encoded(RGB, "TIFF"),
        }.items()
        for part in (20, 60, 95)
    ),
    _bad("cut-progressive.jpg", _most(encoded(RGB, "JPEG", progressive=True)), "Premature"),
    _bad("cut-cmyk.jpg", _most(encoded(_CMYK, "JPEG")), "truncated"),
    _bad("cut-16-bit.png", _half(imagecodecs.png_encode(DEEP)), "too small"),
    _bad("cut-16-bit.tif", _half(tiff(DEEP)), "failed to read|corrupted"),
    _bad(
        "cut-16-bit-strips.tif", tiff(DEEP, compression="zlib", rowsperstrip=4)[:-60], _CUT + "|INSUFFICIENT|BAD_DATA"
    ),
    _bad("cut.jp2", _half(imagecodecs.jpeg2k_encode(RGB, level=0)), "opj"),
    _bad("cut.npy", _half(npy(RGB)), "cannot be decoded|incomplete"),
    # Not what the name says.
    _bad("empty.jpg", b"", r"empty \(0 bytes\)"),
    _bad("zeros.jpg", bytes(5000), "all 5000 bytes are zero"),
    _bad("text.jpg", b"this is no image\n" * 20, _NO_IMAGE),
    _bad("page.jpg", b"<!DOCTYPE html><html><h1>404 Not Found</h1></html>", _NO_IMAGE),
    _bad("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", _NO_IMAGE),
    _bad("only-magic.jpg", b"\xff\xd8\xff\xe0", "damaged"),
    _bad("only-magic.png", b"\x89PNG\r\n\x1a\n", "Truncated|truncated|not an image"),
    _bad("only-magic.tif", b"II*\0", "incomplete|corrupted|not an image|decoded"),
    Odd("a-jpeg.png", _JPEG, "RGB", pixels=_pillow(_JPEG)),
    Odd("a-png.jpg", _PNG, "RGB", pixels=RGB),
    # Bombs: a few bytes that ask for gigabytes.
    _bad("bomb.png", png_claiming(50_000, 50_000), _BOMB),
    _bad("bomb-16-bit.png", png_claiming(50_000, 50_000, depth=16), _BOMB),
    _bad("bomb.jpg", jpeg_claiming(65_500, 65_500), _BOMB),
    _bad("bomb.tif", tiff_claiming(60_000, 60_000), _BOMB),
    _bad("bomb.j2k", jpeg2000_claiming(60_000, 60_000), _BOMB),
    # Damage that a checksum finds.
    _bad("bad-header-checksum.png", _flipped(_PNG, 30), "decoded|not an image"),
    _bad("bad-header-checksum-16-bit.png", _flipped(imagecodecs.png_encode(DEEP), 30), "CRC"),
    # Every mode.
    Odd("1-bit.png", encoded(Image.fromarray(GRAY).convert("1"), "PNG"), "1"),
    Odd("1-bit.tif", encoded(Image.fromarray(GRAY).convert("1"), "TIFF"), "1"),
    Odd("gray.png", encoded(GRAY, "PNG"), "L", pixels=GRAY[..., None]),
    Odd("gray.jpg", encoded(GRAY, "JPEG"), "L", pixels=_pillow(encoded(GRAY, "JPEG"), "L")),
    Odd("palette.png", encoded(_PALETTE, "PNG"), "P", pixels=np.array(_PALETTE.convert("RGB"))),
    Odd("palette.bmp", encoded(_PALETTE, "BMP"), "P", pixels=np.array(_PALETTE.convert("RGB"))),
    Odd("transparent-palette.png", _TRANSPARENT_PALETTE, "P", remark="alpha used as mask"),
    Odd("gray-alpha.png", encoded(np.ascontiguousarray(_RGBA[..., ::3][..., :2]), "PNG"), "LA", remark="alpha used as"),
    Odd("rgba.png", encoded(_RGBA, "PNG"), "RGBA", pixels=RGB, remark="alpha used as mask"),
    Odd("opaque-rgba.png", encoded(np.dstack([RGB, np.full_like(GRAY, 255)]), "PNG"), "RGBA", pixels=RGB),
    Odd("rgba.webp", encoded(_RGBA, "WEBP", lossless=True, exact=True), "RGBA", pixels=RGB, remark="alpha used as"),
    Odd("cmyk.jpg", encoded(_CMYK, "JPEG"), "CMYK", pixels=_pillow(encoded(_CMYK, "JPEG"))),
    Odd("cmyk.tif", encoded(_CMYK, "TIFF"), "CMYK", pixels=np.array(_CMYK.convert("RGB"))),
    Odd("ycck.jpg", imagecodecs.jpeg8_encode(np.array(_CMYK), colorspace="CMYK", outcolorspace="YCCK"), "CMYK"),
    Odd("16-bit-gray.png", imagecodecs.png_encode(DEEP_GRAY), "16-bit gray", pixels=DEEP_GRAY[..., None]),
    Odd("16-bit-rgb.png", imagecodecs.png_encode(DEEP), "16-bit RGB", pixels=DEEP),
    Odd(
        "16-bit-rgba.png",
        imagecodecs.png_encode(np.dstack([DEEP, _RGBA[..., 3] * np.uint16(257)])),
        "16-bit RGB with alpha",
        pixels=DEEP,
        remark="alpha used as mask",
    ),
    Odd("i16.tif", encoded(DEEP_GRAY, "TIFF"), "16-bit gray", pixels=DEEP_GRAY[..., None]),
    Odd("16-bit.pgm", encoded(DEEP_GRAY, "PPM"), "16-bit gray", pixels=DEEP_GRAY[..., None]),
    Odd("16-bit-big-endian.tif", tiff(DEEP, byteorder=">"), "16-bit RGB", pixels=DEEP),
    Odd(
        "16-bit-white-is-zero.tif",
        tiff(DEEP_GRAY, photometric="miniswhite"),
        "16-bit gray",
        pixels=65535 - DEEP_GRAY[..., None],
    ),
    Odd("float-with-nan.tif", tiff(_FLOAT), "float gray", pixels=_FLOAT[..., None]),
    Odd("5-bands.tif", tiff(_BANDS, planarconfig="contig", photometric="minisblack"), "16-bit 5 bands", pixels=_BANDS),
    Odd(
        "5-planes.tif",
        tiff(np.moveaxis(_BANDS, 2, 0), planarconfig="separate", photometric="minisblack"),
        "16-bit 5 bands",
        pixels=_BANDS,
    ),
    Odd("tiles.tif", tiff(DEEP, tile=(16, 16), compression="zlib"), "16-bit RGB", pixels=DEEP),
    Odd("pages.tif", _multipage(), "RGB", pixels=np.array(_FRAMES[0]), remark="several pages"),
    Odd(
        "nodata.tif",
        tiff(_MASKED_TIFF, extratags=[(42113, "s", 0, "9999", True)]),
        "16-bit gray",
        pixels=_MASKED_TIFF[..., None],
    ),
    _bad("nodata-nonsense.tif", tiff(DEEP_GRAY, extratags=[(42113, "s", 0, "none", True)]), "nodata tag 'none'"),
    Odd("jpeg2000.jp2", imagecodecs.jpeg2k_encode(RGB, level=0, reversible=True), "8-bit RGB", pixels=RGB),
    Odd("jpeg2000-16-bit.jp2", imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True), "16-bit RGB", pixels=DEEP),
    # Animated.
    Odd("animated.gif", _GIF, "P", pixels=_pillow(_GIF), remark="animated"),
    Odd("animated.webp", _WEBPS, "RGB", pixels=np.array(_FRAMES[0]), remark="animated"),
    Odd("animated.png", _APNG, "RGB", pixels=np.array(_FRAMES[0]), remark="animated"),
    # JPEG as cameras and programs write it.
    Odd("rotated.jpg", _rotated(), "RGB", pixels=_pillow(_JPEG)),
    Odd("progressive.jpg", encoded(RGB, "JPEG", quality=90, progressive=True), "RGB", pixels=_pillow(_JPEG)),
    *(
        Odd(f"subsampling-{k}.jpg", data, "RGB", pixels=_pillow(data))
        for k, data in enumerate(encoded(RGB, "JPEG", subsampling=k) for k in range(3))
    ),
    Odd("junk-behind.jpg", _JPEG + b"\0junk" * 99, "RGB", pixels=_pillow(_JPEG)),
    Odd("stray-bytes.jpg", _with_stray_bytes(_JPEG), "RGB", pixels=_pillow(_JPEG), remark="stray bytes"),
    # Sizes.
    Odd("1x1.png", encoded(RGB[:1, :1], "PNG"), "RGB", pixels=RGB[:1, :1]),
    Odd("1x1.jpg", encoded(RGB[:1, :1], "JPEG"), "RGB", pixels=_pillow(encoded(RGB[:1, :1], "JPEG"))),
    Odd("1x500.png", encoded(np.zeros((1, 500, 3), np.uint8), "PNG"), "RGB", pixels=np.zeros((1, 500, 3), np.uint8)),
    Odd("500x1.bmp", encoded(np.ones((500, 1, 3), np.uint8), "BMP"), "RGB", pixels=np.ones((500, 1, 3), np.uint8)),
    # Arrays.
    Odd("array.npy", npy(RGB), "uint8 array", pixels=RGB),
    Odd("bool.npy", npy(GRAY > 99), "bool array", pixels=(GRAY > 99)[..., None] * np.uint8(255)),
    Odd("big-endian.npy", npy(DEEP.astype(">u2")), "uint16 array", pixels=DEEP),
    Odd(
        "int32.npy", npy(RGB.astype(np.int32)), "int32 array", pixels=RGB.astype(np.float64), remark="taken as they are"
    ),
    _bad("objects.npy", npy(np.array([Tripwire()], object)), "allow_pickle"),
    _bad("complex.npy", npy(RGB.astype(np.complex64)), "complex64 are not pixels"),
    _bad("strings.npy", npy(np.full((4, 4), "red")), "are not pixels"),
    _bad("empty.npy", npy(np.zeros((0, 5, 3), np.uint8)), r"no pixels \(0×5\)"),
    _bad("no-channels.npy", npy(np.zeros((4, 5, 0), np.uint8)), "no channels"),
    _bad("one-dimension.npy", npy(np.zeros(9)), "is not H×W"),
    _bad("video.npy", npy(np.zeros((2, 4, 5, 3), np.uint8)), "is not H×W"),
    # Names.
    *(
        Odd(name, _PNG, "RGB", pixels=RGB)
        for name in ("new\nline.png", "quote'\"`.png", "<script>alert(1)<!--.png", "ünï 图.png", "-rf.png", "UPPER.PNG")
    ),
]
