"""Features are what the head sees, whatever the batch; weights come from this machine or there is a
plain refusal.
"""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18
from transformers import Dinov2Config, Dinov2Model

from lib.classifier import train as fit
from lib.core.store import Store
from lib.data.real import real_images
from lib.measure import accuracy, features
from lib.measure.features import FeatureError, FeatureExtractor

SIZE = 16
TRAINING = {
    "arm": "real",
    "base_width": 8,
    "architecture": "resnet18",
    "batch_size": 16,
    "lr": 0.05,
    "label_smoothing": 0.1,
    "steps": 5,
    "flip": False,
    "device": "cpu",
}


def digits(size=SIZE):
    return real_images(
        {
            "source": "digits",
            "root": "",
            "resolution": size,
            "shard": 50,
            "split": "train",
            "count": 60,
            "fingerprint": "",
        }
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store with a classifier of digits in it."""
    store = Store(tmp_path_factory.mktemp("store"))
    recipe = fit.classifier(TRAINING, real=digits())
    store.make(recipe)
    return store, recipe


@pytest.fixture
def hub(tmp_path):
    """An empty place for torch's downloaded weights."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


def pixels(n=5, size=40):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_own_features_are_what_the_head_sees(study):
    store, classifier = study
    found, facts = features.of(store, digits(), "cpu", classifier=classifier)
    assert (
        found.shape == (60, 64)
        and found.dtype == np.float32
        and (found >= 0).all()
        and found.std() > 0
    )
    head = fit.opened(store.make(classifier))[0].fc
    said = load_file(
        store.make(accuracy.logits({"device": "cpu"}, classifier=classifier, images=digits())).path(
            "logits.safetensors"
        )
    )["logits"]
    assert torch.allclose(head(torch.from_numpy(found)), said, atol=1e-4)
    assert facts == {"network": "reference", "resize": "as they are, at 16 px"}


def test_features_are_made_once_and_again_for_another_resize(study, capsys):
    store, classifier = study
    one, facts = features.of(store, digits(24), "cpu", classifier=classifier)
    assert (
        facts["resize"] == "bicubic with antialiasing to 16 px"
        and facts["resize"] in capsys.readouterr().err
    )
    again, _ = features.of(store, digits(24), "cpu", classifier=classifier)
    assert np.array_equal(one, again) and "features" not in capsys.readouterr().err
    other, facts = features.of(store, digits(24), "cpu", classifier=classifier, resize="bilinear")
    assert facts["resize"].startswith("bilinear") and not np.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_changes_nothing(study, batch):
    network = features.open_extractor("reference", study[0].make(study[1]))
    images = pixels(20)
    assert np.allclose(
        features.extract(network, images, batch=batch),
        features.extract(network, images, batch=20),
        atol=1e-5,
    )


@pytest.mark.parametrize("resize", features.RESIZES)
@pytest.mark.parametrize("size", [17, 96])
def test_resizing_is_pillows(resize, size):
    body = nn.Linear(1, 1)  # only says where the network lies
    extractor = FeatureExtractor(body, size, lambda grey: grey.flatten(1))
    found = features.extract(extractor, pixels(), resize).reshape(5, 3, size, size)
    mode = Image.Resampling[resize.upper()]
    for image, ours in zip(pixels(), found, strict=True):
        for channel in range(3):
            theirs = Image.fromarray(image[..., channel].astype(np.float32)).resize(
                (size, size), mode
            )
            assert np.abs(ours[channel] - np.asarray(theirs)).max() < 1e-2  # of 255 grey levels


@pytest.mark.parametrize("name", [name for name in features.EXTRACTORS if name != "reference"])
def test_without_weights_it_says_what_brings_them(hub, monkeypatch, name):
    monkeypatch.setitem(features.DINO, "dinov2", (str(hub / "facebook" / "dinov2-large"), None))
    with pytest.raises(
        FeatureError, match=f"not run: no weights of {name} here; `make fetch PROFILE=…`"
    ):
        features.open_extractor(name)


def test_other_refusals(study):
    with pytest.raises(FeatureError, match="give its spec"):
        features.of(study[0], digits(), "cpu")
    with pytest.raises(
        FeatureError, match="no feature extractor 'dino'; there are reference, inception, dinov2"
    ):
        features.open_extractor("dino")
    with pytest.raises(FeatureError, match="no resize mode 'nearest'"):
        features.extract(
            features.open_extractor("reference", study[0].make(study[1])), pixels(), "nearest"
        )


def test_torchvision_network_is_the_one_before_its_head(hub):
    torch.manual_seed(0)
    whole = resnet18().eval()
    torch.save(whole.state_dict(), hub / "resnet18-f37072fd.pth")
    network = features.open_extractor("resnet18")
    found = features.extract(network, pixels(3, 224))
    transforms = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = transforms(torch.from_numpy(pixels(3, 224)).permute(0, 3, 1, 2) / 255)
    with torch.inference_mode():
        assert torch.allclose(whole.fc(torch.from_numpy(found)), whole(x), atol=1e-4)


def test_inception_is_fed_as_the_published_one(hub):
    class Layers(nn.Module):
        def forward(self, x):
            return F.adaptive_avg_pool2d(x, 2)[:, :, :1]

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.layers = nn.Parameter(torch.ones(1)), Layers()

        def forward(self, x):
            return self.layers(x) * self.scale

    torch.jit.script(Whole()).save(str(hub / "inception-2015-12-05.pt"))
    images = pixels(2, 299)
    found = features.extract(features.open_extractor("inception"), images)
    assert found.shape == (2, 6)
    assert found.mean() == pytest.approx((images[:, :149].mean() - 128) / 128, abs=1e-2)


def test_dinov2_gives_the_normalised_class_token(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56)
    ).eval()
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(features.DINO, "dinov2", (str(tmp_path), None))
    found = features.extract(features.open_extractor("dinov2"), pixels(3, 224))
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    x = (torch.from_numpy(pixels(3, 224)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        token = model(x).last_hidden_state[:, 0]
    assert found.shape == (3, 24) and np.allclose(found, token.numpy(), atol=1e-5)
