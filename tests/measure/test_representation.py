"""Measures of features against closed forms, a plain forward pass and kernels written out."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from lib.classifier.model import Classifier, build, normal
from lib.data.imageset import ImageSet
from lib.measure import representation
from lib.measure.representation import RepresentationError


def result(mean, half=0.0):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 3}


def pictures(n, seed, size=16):
    """Two classes, told apart by colour alone."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = rng.integers(0, 80, (n, size, size, 3))
    images[np.arange(n), :, :, 2 * labels] += 100
    return ImageSet(images.astype(np.uint8), labels, ("red", "blue"), np.arange(n), ("",) * n, ("",) * n)


def network(seed, size=16, name="resnet18"):
    torch.manual_seed(seed)
    return Classifier(2, size, 8, name).eval()


@pytest.mark.parametrize("size, name", [(16, "resnet18"), (64, "resnet50"), (128, "resnet18")])
def test_the_head_turns_penultimate_features_into_the_networks_answer(size, name):
    model, images = network(0, size, name), pictures(6, 0, size).images
    features = representation.penultimate(model, images)
    assert features.min() >= 0 and features.shape == (6, model.fc.in_features)  # after the ReLU
    with torch.inference_mode():
        torch.testing.assert_close(model.fc(torch.from_numpy(features)), model(normal(torch.from_numpy(images))))


def test_activations_are_a_plain_forward_pass_whatever_the_batch():
    model, images = network(0), pictures(20, 0).images
    with torch.inference_mode():
        stem = model.relu(model.bn1(model.conv1(normal(torch.from_numpy(images)))))
        second = model.layer2(model.layer1(stem))
    found, single = (representation.activations(model, images, batch=batch) for batch in (20, 3))
    assert list(found) == list(representation.LAYERS)
    np.testing.assert_allclose(found["stem"], stem.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["layer2"], second.mean((2, 3)), rtol=1e-5)
    for name in found:
        np.testing.assert_allclose(found[name], single[name], rtol=1e-4, atol=1e-6)


def test_sparsity_counts_against_each_dimensions_largest():
    features = np.array([[100.0, 1, 0], [1, 0.02, 0], [1.1, 0.005, 0], [0, 0, 0]])  # 2 + 2 + 4 of 12 are small
    assert representation.sparsity(features) == pytest.approx(8 / 12)
    assert representation.sparsity(features * [1, 50, 3]) == representation.sparsity(features)


def test_intra_class_distance_and_its_identity():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], [40, 60])
    unit = rng.normal(size=(100, 8)) + 1
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for part in (unit[:40], unit[40:]):
        n, spread = len(part), 1 - np.square(part.mean(axis=0)).sum()
        assert np.mean(pdist(part) ** 2) == pytest.approx(2 * n / (n - 1) * spread, rel=1e-12)
    each = [np.mean([np.linalg.norm(a - b) for i, a in enumerate(part) for b in part[:i]]) for part in (unit[:40], unit[40:])]
    assert representation.intra_class(unit, labels) == pytest.approx(np.mean(each), rel=1e-12)
    corners = np.tile(np.eye(5), (2, 1))  # all distances are equal, so the identity gives the distance itself
    assert representation.intra_class(corners, np.repeat([0, 1], 5)) == pytest.approx((2 * 5 / 4 * (1 - 1 / 5)) ** 0.5)


def test_redundancy_of_duplicated_independent_and_constant_columns():
    rng, n = np.random.default_rng(0), 400
    column = rng.normal(size=(n, 1))
    assert representation.redundancy(column @ [[1, -3, 0.5]]) == pytest.approx(1)
    independent = rng.normal(size=(n, 150))
    assert representation.redundancy(independent) == pytest.approx((2 / (np.pi * n)) ** 0.5, rel=0.03)
    constant = np.concatenate([independent, np.ones((n, 50))], axis=1)
    assert representation.redundancy(constant) == representation.redundancy(independent)


def test_coding_length_of_isotropic_one_line_and_known_classes():
    d, eps2 = 16, representation.EPS2
    assert representation.coding_length(np.tile(np.eye(d), (5, 1))) == pytest.approx(d / 2 * np.log(1 + 1 / eps2), rel=1e-12)
    line = np.tile(np.eye(d)[:1], (40, 1))
    assert representation.coding_length(line) == pytest.approx(np.log(1 + d / eps2) / 2, rel=1e-12)
    assert representation.coding_length(line[:3]) == pytest.approx(np.log(1 + d / eps2) / 2, rel=1e-12)  # fewer than dimensions
    classes, labels = np.repeat(np.eye(d)[:4], 10, axis=0), np.repeat(range(4), 10)  # each class its own line
    assert representation.coding_length_within(classes, labels) == pytest.approx(np.log(1 + d / eps2) / 2, rel=1e-12)
    assert representation.coding_length(classes) == pytest.approx(4 / 2 * np.log(1 + d / 4 / eps2), rel=1e-12)


def test_all_five_measures_do_not_see_the_features_scale():
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    features = np.maximum(rng.normal(size=(60, 10)), 0).astype(np.float32) + 0.01
    once, scaled = representation.measures(features, labels), representation.measures(features * 64, labels)
    assert once == pytest.approx(scaled, rel=1e-6) and set(once) < set(representation.BETTER)


def test_features_that_have_no_measure_are_refused():
    with pytest.raises(RepresentationError, match="class 1 has a single image"):
        representation.measures(np.eye(3), np.array([0, 0, 1]))
    with pytest.raises(RepresentationError, match="0 of 4 dimensions vary"):
        representation.measures(np.ones((6, 4)), np.arange(6) % 2)
    with pytest.raises(RepresentationError, match="not finite"):
        representation.measures(np.full((6, 4), np.nan), np.arange(6) % 2)


def test_transfer_is_perfect_where_classes_are_apart_and_chance_on_noise():
    rng, labels = np.random.default_rng(0), np.arange(300) % 3
    apart = rng.normal(size=(2, 300, 6)) + 8 * np.eye(6)[labels]
    assert representation.transfer(apart[0], labels, apart[1], labels, 0)["accuracy"] == 1
    noise = rng.normal(size=(2, 300, 6))
    assert representation.transfer(noise[0], labels, noise[1], labels, 0)["accuracy"] == pytest.approx(1 / 3, abs=0.09)


def test_the_test_set_chooses_nothing():
    rng, labels = np.random.default_rng(0), np.arange(200) % 4
    train, test = rng.normal(size=(2, 200, 30)) + 0.5 * np.eye(30)[labels]
    chosen = {representation.transfer(train, labels, ask, answers, 3)["C"]
              for ask, answers in ((test, labels), (test, labels[::-1]), (100 * test + 7, labels), (train[:5], labels[:5]))}
    assert len(chosen) == 1 and chosen <= set(representation.PENALTIES)
    noisy = rng.normal(size=(200, 30))  # nothing to be learnt: a C that overfits must not win by its training accuracy
    assert representation.transfer(noisy, labels, noisy, labels, 3)["accuracy"] < 0.8


def test_probes_read_colour_from_every_layer_and_nothing_from_shuffled_labels():
    train, test = pictures(80, 0), pictures(60, 1)
    learn, ask = (representation.activations(network(0), part.images) for part in (train, test))
    assert representation.probes(learn, train.labels, ask, test.labels) == dict.fromkeys(representation.LAYERS, 1)
    shuffled = np.random.default_rng(5).permutation(train.labels)
    assert representation.probes({"stem": learn["stem"]}, shuffled, ask, test.labels)["stem"] < 0.8


def test_layers_are_those_that_compute_something():
    assert representation.layers(network(0, name="resnet8")) == representation.LAYERS[:4]
    model, images = build(3, 32, name="squeezenet1_0"), pictures(2, 0, 32).images
    with pytest.raises(RepresentationError, match="SqueezeNet has no linear head"):
        representation.activations(model, images)
    model = build(3, 32, name="shufflenet_v2_x0_5").eval()
    features = representation.activations(model, images)
    assert list(features) == ["head"]
    with torch.inference_mode():
        torch.testing.assert_close(model.fc(torch.from_numpy(features["head"])), model(normal(torch.from_numpy(images))))


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_sees_neither_rotation_nor_scale_nor_shift(debiased):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 12)) * np.arange(1, 13)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    assert representation.cka(a, 7 * a @ rotation + 3, debiased) == pytest.approx(1, abs=1e-12)
    stretched = a * np.arange(12, 0, -1) ** 2
    assert representation.cka(a, stretched, debiased) < 0.8


def test_cka_of_the_unrelated_is_near_nothing_and_debiased_around_it():
    rng = np.random.default_rng(0)
    assert representation.cka(*rng.normal(size=(2, 3000, 10))) < 0.01
    few = [rng.normal(size=(2, 40, 80)) for _ in range(30)]  # fewer images than dimensions: the plain one is far from 0
    assert np.mean([representation.cka(*pair) for pair in few]) > 0.5
    assert np.mean([representation.cka(*pair, debiased=True) for pair in few]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_that_of_the_kernels_written_out(debiased):
    rng, n = np.random.default_rng(0), 25
    a, b = rng.normal(size=(n, 6)) + 2, rng.normal(size=(n, 9)) - 1
    b[:, :6] += a

    def centred(kernel):  # Székely's U-centring for the debiased one: the diagonal is left out
        if not debiased:
            return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
        kernel = kernel - np.diag(np.diag(kernel))
        kernel = kernel - kernel.sum(0) / (n - 2) - kernel.sum(1)[:, None] / (n - 2) + kernel.sum() / ((n - 1) * (n - 2))
        return kernel - np.diag(np.diag(kernel))

    k, m = centred(a @ a.T), centred(b @ b.T)
    assert representation.cka(a, b, debiased) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), rel=1e-9)


def test_cka_needs_the_same_images():
    with pytest.raises(RepresentationError, match="got 5 and 6"):
        representation.cka(np.ones((5, 2)), np.ones((6, 2)))


def test_spokes_point_outward_where_it_is_better():
    found = representation.spokes({"real": {"transfer": result(0.8, 0.1), "redundancy": result(0.2)},
                                   "sd": {"transfer": result(0.6), "redundancy": result(0.3, 0.02)}})
    assert found[found.arm == "real"].spoke.tolist() == [1, 1]
    assert found[found.arm == "sd"].spoke.tolist() == pytest.approx([0.75, 0.5])
    assert found.better.tolist() == ["higher", "lower"] * 2 and found["mean"].tolist() == [0.8, 0.2, 0.6, 0.3]
    assert found.iloc[3][["spoke_low", "spoke_high"]].tolist() == pytest.approx([0.4, 0.6])
    assert found.iloc[0][["spoke_low", "spoke_high"]].tolist() == pytest.approx([0.875, 1.125])
    far = representation.spokes({"real": {"redundancy": result(0.1)}, "sd": {"redundancy": result(0.5)}})
    assert far.spoke.tolist() == [1, 0]  # never through the centre to the other side


def test_an_axis_without_direction_or_base_is_refused():
    with pytest.raises(RepresentationError, match="which way is better on axis 'charm'"):
        representation.spokes({"real": {"charm": result(1)}})
    for real in ({}, {"transfer": result(0)}):
        with pytest.raises(RepresentationError, match="shares of arm 'real'"):
            representation.spokes({"real": real, "sd": {"transfer": result(1)}})


def test_the_plane_is_that_of_the_first_set():
    rng = np.random.default_rng(0)
    real, synthetic = rng.normal(size=(2, 200, 6)) * [9, 4, 1, 1, 1, 1]
    synthetic[:, 5] += 50  # what sets the second apart lies across the plane of the first
    (a, b), shares = representation.plane([real, synthetic], 0)
    assert a.shape == b.shape == (200, 2) and np.abs(a.mean(axis=0)).max() < 1e-9
    np.testing.assert_allclose(a.var(axis=0) / real.var(axis=0).sum(), shares, rtol=1e-9)
    np.testing.assert_array_equal(a, representation.plane([real, rng.normal(size=(9, 6))], 0)[0][0])
