"""make fetch against a small hub on this machine: whole, resumed, mended, refused, and loaded
without a network.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from huggingface_hub import constants

from lib.core import config as settings
from lib.core.fetch import FetchError, cifar10, models
from lib.core.fetch import fetch as fetch_all
from lib.core.paths import ROOT
from lib.data.source import SourceError
from lib.diffusion.hub import GeneratorError, fetch
from lib.measure import features

COMMIT = "5" * 40
NOWHERE = "http://127.0.0.1:9"
PIECE = 10 * 2**20  # bytes that huggingface_hub writes at once
UNET = "unet/diffusion_pytorch_model.safetensors"


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks of a hub, of one model whose safetensors are large files."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.sent: list[tuple[str, int]] = []  # file and first byte of each that was asked for
        # file -> after which part of it the next connections end; negative: stall
        self.cuts: dict[str, list[float]] = {}
        self.stalled = threading.Event()  # set when the hub ends
        # file -> how many more times it is sent with a wrong byte
        self.garbled: dict[str, int] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def entry(self, name, keys):
        """A file as the hub lists it, under the names of one of its two listings."""
        data = self.files[name]
        entry = {
            "type": "file",
            keys[0]: name,
            keys[1]: hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest(),
            "size": len(data),
        }
        large = {"size": len(data), keys[2]: hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return entry | ({"lfs": large} if name.endswith("safetensors") else {})


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        listing = {
            "/api/models/some/tiny": "info",
            f"/api/models/some/tiny/tree/{COMMIT}": "tree",
            "/api/models/some/tiny/revision/main": "info",
            f"/api/models/some/tiny/revision/{COMMIT}": "info",
        }.get(path)
        name = path.removeprefix(f"/some/tiny/resolve/{COMMIT}/")
        if listing:
            keys = (
                ("path", "oid", "oid") if listing == "tree" else ("rfilename", "blobId", "sha256")
            )
            entries = [self.server.entry(name, keys) for name in self.server.files]
            info = {
                "id": "some/tiny",
                "sha": COMMIT,
                "siblings": entries,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            self.answer(200, json.dumps(entries if listing == "tree" else info).encode())
        elif name in self.server.files:
            self.file(name)
        else:
            code = (
                "RevisionNotFound"
                if path.startswith("/api/models/some/tiny/revision")
                else "RepoNotFound"
            )
            self.answer(404, b"{}", {"X-Error-Code": code})

    def file(self, name):
        data, large = self.server.files[name], name.endswith("safetensors")
        first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        tag = (
            hashlib.sha256(data).hexdigest()
            if large
            else self.server.entry(name, ("", "oid", ""))["oid"]
        )
        headers = {
            "ETag": f'"{tag}"',
            "X-Repo-Commit": COMMIT,
            "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}",
        }
        if self.command == "GET":
            self.server.sent.append((name, first))
            if self.server.garbled.get(name, 0) > 0:
                self.server.garbled[name] -= 1
                data = bytes([data[0] ^ 1]) + data[1:]
        self.answer(206 if first else 200, data[first:], headers, self.server.cuts.get(name, []))

    def answer(self, status, body, headers=(), cuts=()):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = cuts.pop(0) if cuts else 1
        self.wfile.write(body[:int(len(body) * abs(cut))])
        self.wfile.flush()
        if cut < 0:
            self.server.stalled.wait()
        self.close_connection = cut != 1


def stored(folder):
    """A folder with what must stay on the hub beside it: half-precision and pickled copies, a
    picture.
    """
    shutil.copy(folder / UNET, folder / UNET.replace("model.", "model.fp16."))
    for name in ("unet/diffusion_pytorch_model.bin", "sample.png"):
        (folder / name).write_bytes(b"\x80\x04not wanted")
    return folder


@contextlib.contextmanager
def serving(folder):
    hub = Hub(folder)
    try:
        yield hub
    finally:
        hub.stalled.set()
        hub.shutdown()
        hub.server_close()


@pytest.fixture
def hub(tmp_path):
    """A hub whose model has the layout of one, and any bytes for weights."""
    folder = tmp_path / "served"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    (folder / "unet" / "config.json").write_text("{}")
    (folder / UNET).write_bytes(random.Random(0).randbytes(200_000))
    with serving(stored(folder)) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, monkeypatch, hub):
    """This process knows only that hub and an empty cache."""
    at(monkeypatch, hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def at(monkeypatch, address):
    """What HF_ENDPOINT sets when it is there before the first import."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )


def refused(*words, name="some/tiny", revision=None):
    """The error of a fetch, in two lines of which the last is the model or file, holds these words.
    """
    with pytest.raises(GeneratorError) as caught:
        fetch(name, revision)
    message = str(caught.value)
    assert len(message.splitlines()) == 2 and all(word in message for word in words), message


def blob(cache, name):
    return next(cache.rglob(f"snapshots/{COMMIT}/{name}"))


def test_what_was_fetched_serves_without_a_network_and_a_part_of_it_does_not(
    hub, cache, capsys, monkeypatch
):
    folder = fetch("some/tiny", None)
    assert Path(folder).name == COMMIT and fetch("some/tiny", COMMIT) == folder
    at(monkeypatch, NOWHERE)
    assert (
        fetch("some/tiny", "main") == folder and "its hashes unchecked" in capsys.readouterr().err
    )
    blob(cache, "unet/config.json").unlink()
    refused("ConnectError", "make fetch PROFILE=")


def test_a_connection_that_ends_in_mid_file_is_taken_up_there(hub, cache):
    hub.files[UNET], hub.cuts[UNET] = random.Random(1).randbytes(2 * PIECE), [.7]
    fetch("some/tiny", None)
    assert [first for name, first in hub.sent if name == UNET] == [0, PIECE]
    assert blob(cache, UNET).read_bytes() == hub.files[UNET]


def test_altered_files_are_named_and_brought_again(hub, cache, capsys):
    fetch("some/tiny", None)
    for name in (UNET, "unet/config.json"):
        path = blob(cache, name).resolve()
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    before = len(hub.sent)
    fetch("some/tiny", None)
    said = capsys.readouterr().err
    assert all(
        f"{name} is not the file that the hub lists" in said for name in (UNET, "unet/config.json")
    )
    assert sorted(name for name, _ in hub.sent[before:]) == ["unet/config.json", UNET]
    assert blob(cache, UNET).read_bytes() == hub.files[UNET]


def test_a_file_that_comes_wrong_is_asked_for_once_more(hub, cache):
    hub.garbled[UNET] = 3
    refused(f"{UNET} of some/tiny came twice with another hash", "generation.model")
    assert sum(name == UNET for name, _ in hub.sent) == 2 and not list(cache.rglob(UNET))
    fetch("some/tiny", None)
    assert (
        sum(name == UNET for name, _ in hub.sent) == 4
        and blob(cache, UNET).read_bytes() == hub.files[UNET]
    )


@pytest.mark.parametrize(
    "lost, words",
    [
        (
            UNET,
            (
                "part 'unet' of some/tiny has no full-precision safetensors",
                "model.bin",
                "pickles are refused",
            ),
        ),
        ("model_index.json", ("has no model_index.json", "generation.model")),
    ],
)
def test_pickles_and_other_layouts_are_refused_before_anything_comes(hub, cache, lost, words):
    del hub.files[lost]
    refused(*words)
    assert not hub.sent


def test_an_error_names_its_cause_and_the_way_out(hub, cache, monkeypatch):
    way = ("generation.model: some/", "make fetch PROFILE=")
    refused("the model has no such revision", "revision gone", *way, revision="gone")
    refused("the hub knows no public model of that name", *way, name="some/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE forbids the network", *way)


def test_only_hub_ids_are_fetched_each_once(tmp_path):
    generation = settings.load("world").generation
    named = {"shipped": [], str(tmp_path): [], "some/tiny": ["some/tiny"]}
    assert {
        m: models(generation.model_copy(update={"model": m, "init_from": "scratch"})) for m in named
    } == named
    assert models(generation.model_copy(update={"model": "a/b", "init_from": "a/b"})) == ["a/b"]


def test_data_that_cannot_be_had_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", NOWHERE)
    with pytest.raises(
        FetchError, match=r"(?s)CIFAR-10 cannot be had.*make fetch PROFILE=.*cifar-10-python.tar.gz"
    ):
        cifar10(tmp_path)
    loaded = settings.load("digits")
    data = loaded.data.model_copy(update={"source": "folder", "root": str(tmp_path / "photos")})
    with pytest.raises(SourceError, match="nothing is there") as caught:
        fetch_all(loaded.model_copy(update={"data": data}))
    assert str(caught.value).splitlines()[-1] == str(tmp_path / "photos")
    download = loaded.data.model_copy(update={"source": "cifake", "root": str(tmp_path / "cifake")})
    with pytest.raises(SourceError, match="put your files there, or set data.root"):
        fetch_all(loaded.model_copy(update={"data": download}))
    (tmp_path / "cifake-1.zip").write_bytes(b"")
    (line,) = fetch_all(loaded.model_copy(update={"data": download}))
    assert line == f"cifake: {tmp_path / 'cifake-1.zip'}, a download of your own"


# -- as typed
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with a profile that wants the model of the hub."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("lib", "params"):
        shutil.copytree(
            ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "pretrained")
        )
    (checkout / "params" / "mine.yaml").write_text(
        "generation: {model: some/tiny, init_from: scratch}\n"
    )
    return checkout


def typed(checkout, cache, address, profile="mine"):
    """`python -m lib.core.fetch`, started; the environment says where hub and cache are."""
    return subprocess.Popen(
        [sys.executable, "-m", "lib.core.fetch", "--profile", profile],
        cwd=checkout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cache, address),
    )


def environment(cache, address, **more):
    return {
        **os.environ,
        "HF_HOME": str(cache),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **more,
    }


def test_a_model_is_fetched_once_and_loads_without_a_network(checkout, tmp_path):
    from tests.diffusion import tiny  # torch: only here

    folder = stored(tiny.of_text().save(tmp_path / "served"))
    stays = (".bin", ".png", "fp16.safetensors")
    wanted = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*.*") if not p.name.endswith(stays)
    )
    with serving(folder) as hub:
        for _ in range(2):
            run = typed(checkout, tmp_path, hub.address)
            out, err = run.communicate()
            assert run.returncode == 0 and out == f"some/tiny: commit {COMMIT}\n", err
            assert sorted(name for name, _ in hub.sent) == wanted
    program = (
        "import sys, torch; from lib.diffusion.model import Generator\n"
        "a, b = Generator.load('some/tiny'), Generator.load(sys.argv[1])\n"
        "pairs = zip(a.unet.state_dict().values(), b.unet.state_dict().values(), strict=True)\n"
        "assert all(torch.equal(x, y) for x, y in pairs)\n"
        "assert torch.equal(a.text(['a red cube']), b.text(['a red cube']))\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=environment(tmp_path, NOWHERE, HF_HUB_OFFLINE="1"),
    )
    assert loaded.returncode == 0, loaded.stderr


def test_a_killed_fetch_goes_on_where_it_ended(checkout, hub, tmp_path):
    hub.files[UNET], hub.cuts[UNET] = random.Random(1).randbytes(2 * PIECE), [-.7]
    run = typed(checkout, tmp_path, hub.address)
    while run.poll() is None and not any(
        p.stat().st_size >= PIECE for p in tmp_path.rglob("*.part")
    ):
        time.sleep(.05)
    run.kill()
    run.communicate()
    run = typed(checkout, tmp_path, hub.address)
    assert run.communicate()[0] and run.returncode == 0
    assert [first for name, first in hub.sent if name == UNET] == [0, PIECE]
    assert blob(tmp_path, UNET).read_bytes() == hub.files[UNET] and not list(
        tmp_path.rglob("*.part")
    )


@pytest.mark.parametrize("profile, code, words", [
    ("mine", 1, "make fetch PROFILE=mine"), ("nobody", 1, "no profile named 'nobody'"),
    ("digits", 0, "profile digits needs nothing from elsewhere")])
def test_a_run_without_network_ends_in_a_sentence(checkout, tmp_path, profile, code, words):
    run = typed(checkout, tmp_path, NOWHERE, profile)
    out, err = run.communicate()
    assert run.returncode == code and words in (err if code else out) and "Traceback" not in err


def test_weights_of_feature_extractors_are_brought_too(monkeypatch):
    loaded = []
    monkeypatch.setattr(features, "_load", lambda name, here: loaded.append((name, here)))
    section = {"feature_extractors": ["reference", "dinov2"]}
    lines = fetch_all(settings.load("smoke", {"representation": section}))
    assert loaded == [("dinov2", False)] and lines == ["dinov2: weights of a feature extractor"]
