"""One picture file: bytes to RGB pixels and back; its size is read before anything is decoded."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow hands others to programs
MAX_PIXELS = 2**26  # 67 megapixels: twice the largest photo, a fifth of a GB of RGB
ORIENTATION = 0x0112  # the EXIF tag
DAMAGE = (  # what Pillow's readers raise over damaged files
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError,
    MemoryError, struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
    cv2.error,
)  # fmt: skip


class PictureError(ValueError):
    """Bytes that are not a picture this project reads."""


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself before it is decoded."""

    format: str
    mode: str
    width: int
    height: int
    frames: bool  # more than one: an animation, or pages
    rotated: bool  # by its EXIF orientation

    def conversions(self) -> list[str]:
        """What reading it as upright 8-bit RGB changes."""
        depth = "16 bits" if self.mode.startswith("I") else self.mode
        changes = [f"{depth} converted to RGB"] if self.mode != "RGB" else []
        changes += ["turned upright by EXIF orientation"] if self.rotated else []
        return changes + (["first frame of several"] if self.frames else [])


def read_header(data: bytes) -> Header:
    """Format, mode and size; PictureError where the bytes are no picture or a picture too large."""
    with _open(data) as image:
        return _header(image)


def decode(data: bytes) -> np.ndarray:
    """Upright RGB uint8 (h, w, 3): 16 bits are scaled to 8, transparency lies on white."""
    with _open(data) as image:
        header = _header(image)
        if header.format == "JPEG" and header.mode in ("RGB", "L"):
            return _decode_jpeg(data)  # the same pixels as Pillow's, five times as fast
        try:
            return _to_rgb(ImageOps.exif_transpose(image))
        except DAMAGE as error:
            raise PictureError(f"a damaged picture ({error})") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """A lossless PNG of RGB (h, w, 3) uint8, grey (h, w) uint8 or a mask (h, w) bool."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Centre square of an image (h, w, 3) as (size, size, 3): area means down, bicubic up."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=interpolation)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except DAMAGE as error:
        raise PictureError(f"not a picture ({error})") from error


def _header(image: Image.Image) -> Header:
    width, height = image.size
    if width * height > MAX_PIXELS:
        size = f"{width:,} × {height:,} pixels"
        raise PictureError(f"{size} where at most {MAX_PIXELS:,} are read (a decompression bomb?)")
    try:
        rotated = image.getexif().get(ORIENTATION, 1) in range(2, 9)
        several = getattr(image, "is_animated", False)
    except DAMAGE as error:
        raise PictureError(f"a damaged picture ({error})") from error
    return Header(image.format, image.mode, width, height, several, rotated)


def _decode_jpeg(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise PictureError("a damaged JPEG: its data ends early or is not an image")
    return pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise PictureError("floating-point pixels of unknown range; save it as 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return np.asarray(image.convert("RGB"))
