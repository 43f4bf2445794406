"""Every kind of picture file becomes upright 8-bit RGB, or is refused before it is decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from lib.data.pictures import PictureError, decode, encode_png, fit, read_header


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(kind, orientation=6):
    """A picture 40 wide and 20 high, red on its left, that its EXIF says to turn."""
    image = Image.new("RGB", (40, 20), (10, 10, 10))
    image.paste((240, 10, 10), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(kind):
    pixels = decode(turned(kind))
    assert pixels.shape == (40, 20, 3) and pixels[5, 10, 0] > 200 > 60 > pixels[35, 10, 0]
    assert "turned upright by EXIF orientation" in read_header(turned(kind)).conversions()


@pytest.mark.parametrize(
    "mode, kind, expected",
    [
        ("L", "PNG", 91), ("L", "JPEG", 91), ("P", "PNG", (204, 51, 0)),
        ("CMYK", "JPEG", (204, 51, 0)),
        ("1", "PNG", 0), ("RGBA", "PNG", (204, 51, 0)), ("LA", "PNG", 91),
    ],
)  # fmt: skip
def test_other_modes_become_rgb_and_are_named(mode, kind, expected):
    source = Image.new("RGB", (9, 7), (204, 51, 0)) if mode != "1" else Image.new("RGB", (9, 7))
    data = saved(source.convert(mode), kind, **({"quality": 100} if kind == "JPEG" else {}))
    np.testing.assert_allclose(decode(data)[3, 4], np.broadcast_to(expected, 3), atol=5)
    assert read_header(data).conversions() == [f"{mode} converted to RGB"]


def test_16_bits_are_scaled_not_clipped():
    data = saved(Image.fromarray(np.full((5, 5), 0x8040, np.uint16)))
    assert (decode(data) == 0x80).all() and read_header(data).conversions() == [
        "16 bits converted to RGB"
    ]


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (6, 6), (255, 0, 0, 0))
    assert (decode(saved(image)) == 255).all()
    palette = Image.new("P", (6, 6), 0)
    palette.putpalette([9, 9, 9])
    assert (decode(saved(palette, transparency=0)) == 255).all()


def test_of_an_animation_the_first_frame_is_read_and_named():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[3, 3].tolist() == [254, 0, 0] or decode(data)[3, 3, 0] > 250
    assert "first frame of several" in read_header(data).conversions()


def bomb():
    """A PNG header that claims 100,000 × 100,000 pixels."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.mark.parametrize(
    "data", [b"", b"hello", bomb(), turned("JPEG")[:-200], turned("PNG")[:-30]]
)
def test_what_is_no_whole_picture_is_refused(data):
    with pytest.raises(PictureError):
        decode(data)


def test_floating_point_pixels_are_refused():
    with pytest.raises(PictureError, match="floating-point"):
        decode(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_a_png_is_lossless():
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode(encode_png(pixels)), pixels)


def test_fit_takes_the_centre_and_the_mean():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 100
    image[:2, 2:4] = 200
    np.testing.assert_array_equal(fit(image, 2)[..., 0], [[200, 100], [100, 100]])
    assert fit(image, 16).shape == (16, 16, 3)
