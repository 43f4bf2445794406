"""Small downloads in every form: folder, zip, tar."""

import io
import tarfile
import zipfile

from PIL import Image


def encoded(colour=(200, 30, 30), size=(20, 14), kind="PNG", mode="RGB", **options):
    """A one-colour picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def class_folders(*prefixes, count=5, classes=("blue & <b>", "red")):
    """Files of a small set: `count` pictures per class in each folder."""
    return {
        f"{prefix}{name}/{i}.png": encoded(
            (200 + i, 30, 30) if name == "red" else (30, 30, 200 + i)
        )
        for prefix in prefixes or ("",)
        for name in classes
        for i in range(count)
    }


def as_folder(where, content):
    for name, data in content.items():
        (where / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (where / "set" / name).write_bytes(data)
    return where / "set"


def as_zip(where, content):
    with zipfile.ZipFile(where / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in reversed(content.items()):
            archive.writestr(name, data)
    return where / "set.zip"


def as_tar(where, content, name="set.tar"):
    with tarfile.open(where / name, f"w:{'xz' if name.endswith('xz') else ''}") as archive:
        for member, data in content.items():
            entry = tarfile.TarInfo(f"./download/{member}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return where / name


def as_xz(where, content):
    return as_tar(where, content, "set.tar.xz")


FORMS = [as_folder, as_zip, as_tar, as_xz]
