"""Measures of features against closed forms, a plain forward pass and kernels written out."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from lib.classifier.model import build, normal
from lib.classifier.resnet import Classifier
from lib.data.imageset import ImageSet
from lib.measure import probes, representation, stats
from lib.measure.representation import RepresentationError


def result(mean, half=0.0):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 3}


def pictures(n, seed, size=16):
    """Two classes, told apart by colour alone."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = rng.integers(0, 80, (n, size, size, 3))
    images[np.arange(n), :, :, 2 * labels] += 100
    return ImageSet(
        images.astype(np.uint8), labels, ("red", "blue"), np.arange(n), ("",) * n, ("",) * n
    )


def network(seed, size=16, name="resnet18"):
    torch.manual_seed(seed)
    return Classifier(2, size, 8, name).eval()


@pytest.mark.parametrize("size, name", [(16, "resnet18"), (64, "resnet50"), (128, "resnet18")])
def test_the_head_turns_penultimate_features_into_the_networks_answer(size, name):
    model, images = network(0, size, name), pictures(6, 0, size).images
    features = probes.penultimate(model, images)
    assert features.min() >= 0 and features.shape == (6, model.fc.in_features)  # after the ReLU
    with torch.inference_mode():
        torch.testing.assert_close(
            model.fc(torch.from_numpy(features)), model(normal(torch.from_numpy(images)))
        )


def test_activations_are_a_plain_forward_pass_whatever_the_batch():
    model, images = network(0), pictures(20, 0).images
    with torch.inference_mode():
        stem = model.relu(model.bn1(model.conv1(normal(torch.from_numpy(images)))))
        second = model.layer2(model.layer1(stem))
    found, single = (probes.activations(model, images, batch=batch) for batch in (20, 3))
    assert list(found) == list(probes.LAYERS)
    np.testing.assert_allclose(found["stem"], stem.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["layer2"], second.mean((2, 3)), rtol=1e-5)
    for name in found:
        np.testing.assert_allclose(found[name], single[name], rtol=1e-4, atol=1e-6)


def test_sparsity_counts_against_each_dimensions_largest():
    # 2 + 2 + 4 of 12 are small
    features = np.array([[100.0, 1, 0], [1, 0.02, 0], [1.1, 0.005, 0], [0, 0, 0]])
    assert representation.sparsity(features) == pytest.approx(8 / 12)
    assert representation.sparsity(features * [1, 50, 3]) == representation.sparsity(features)


def test_intra_class_distance_and_its_identity():
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], [40, 60])
    unit = rng.normal(size=(100, 8)) + 1
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for part in (unit[:40], unit[40:]):
        n, spread = len(part), 1 - np.square(part.mean(axis=0)).sum()
        assert np.mean(pdist(part) ** 2) == pytest.approx(2 * n / (n - 1) * spread, rel=1e-12)
    each = [
        np.mean([np.linalg.norm(a - b) for i, a in enumerate(part) for b in part[:i]])
        for part in (unit[:40], unit[40:])
    ]
    assert representation.intra_class(unit, labels) == pytest.approx(np.mean(each), rel=1e-12)
    # all distances are equal, so the identity gives the distance itself
    corners = np.tile(np.eye(5), (2, 1))
    assert representation.intra_class(corners, np.repeat([0, 1], 5)) == pytest.approx(
        (2 * 5 / 4 * (1 - 1 / 5)) ** 0.5
    )


def test_redundancy_of_duplicated_independent_and_constant_columns():
    rng, n = np.random.default_rng(0), 400
    column = rng.normal(size=(n, 1))
    assert representation.redundancy(column @ [[1, -3, 0.5]]) == pytest.approx(1)
    independent = rng.normal(size=(n, 150))
    assert representation.redundancy(independent) == pytest.approx(
        (2 / (np.pi * n)) ** 0.5, rel=0.03
    )
    constant = np.concatenate([independent, np.ones((n, 50))], axis=1)
    assert representation.redundancy(constant) == representation.redundancy(independent)


def test_coding_length_of_isotropic_one_line_and_known_classes():
    d, eps2 = 16, representation.EPS2
    assert representation.coding_length(np.tile(np.eye(d), (5, 1))) == pytest.approx(
        d / 2 * np.log(1 + 1 / eps2), rel=1e-12
    )
    line = np.tile(np.eye(d)[:1], (40, 1))
    assert representation.coding_length(line) == pytest.approx(np.log(1 + d / eps2) / 2, rel=1e-12)
    # fewer than dimensions
    assert representation.coding_length(line[:3]) == pytest.approx(
        np.log(1 + d / eps2) / 2, rel=1e-12
    )
    # each class its own line
    classes, labels = np.repeat(np.eye(d)[:4], 10, axis=0), np.repeat(range(4), 10)
    assert representation.coding_length_within(classes, labels) == pytest.approx(
        np.log(1 + d / eps2) / 2, rel=1e-12
    )
    assert representation.coding_length(classes) == pytest.approx(
        4 / 2 * np.log(1 + d / 4 / eps2), rel=1e-12
    )


def test_all_five_measures_do_not_see_the_features_scale():
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    features = np.maximum(rng.normal(size=(60, 10)), 0).astype(np.float32) + 0.01
    once, scaled = (
        representation.measures(features, labels),
        representation.measures(features * 64, labels),
    )
    assert once == pytest.approx(scaled, rel=1e-6) and len(once) == 5


def test_features_that_have_no_measure_are_refused():
    with pytest.raises(RepresentationError, match="class 1 has a single image"):
        representation.measures(np.eye(3), np.array([0, 0, 1]))
    with pytest.raises(RepresentationError, match="0 of 4 dimensions vary"):
        representation.measures(np.ones((6, 4)), np.arange(6) % 2)
    with pytest.raises(RepresentationError, match="not finite"):
        representation.measures(np.full((6, 4), np.nan), np.arange(6) % 2)


def test_a_probe_is_perfect_where_classes_are_apart_and_chance_on_noise():
    rng, labels = np.random.default_rng(0), np.arange(300) % 3
    apart = rng.normal(size=(2, 300, 6)) + 8 * np.eye(6)[labels]
    np.testing.assert_array_equal(probes.linear_probe(apart[0], labels, apart[1], 0), labels)
    noise = rng.normal(size=(2, 300, 6))
    correct = probes.linear_probe(noise[0], labels, noise[1], 0) == labels
    assert correct.mean() == pytest.approx(1 / 3, abs=0.09)


def test_a_penalty_that_overfits_does_not_win_by_its_training_accuracy():
    rng, labels = np.random.default_rng(0), np.arange(200) % 4
    noisy = rng.normal(size=(200, 30))  # nothing to be learned
    fitted = probes.fit_probe(noisy, labels, 3)
    assert fitted.best_params_["logisticregression__C"] in probes.PENALTIES
    assert (fitted.predict(noisy) == labels).mean() < 0.8


def test_probes_read_colour_from_every_layer_and_nothing_from_shuffled_labels():
    train, test = pictures(80, 0), pictures(60, 1)
    fitted, tested = (probes.activations(network(0), part.images) for part in (train, test))
    for layer in probes.LAYERS:
        predicted = probes.linear_probe(fitted[layer], train.labels, tested[layer], 0)
        np.testing.assert_array_equal(predicted, test.labels)
    shuffled = np.random.default_rng(5).permutation(train.labels)
    predicted = probes.linear_probe(fitted["stem"], shuffled, tested["stem"], 0)
    assert (predicted == test.labels).mean() < 0.8


def test_layers_are_those_that_compute_something():
    assert probes.layers(network(0, name="resnet8")) == probes.LAYERS[:4]
    model, images = build(3, 32, name="squeezenet1_0"), pictures(2, 0, 32).images
    with pytest.raises(probes.ProbeError, match="SqueezeNet has no linear head"):
        probes.activations(model, images)
    model = build(3, 32, name="shufflenet_v2_x0_5").eval()
    features = probes.activations(model, images)
    assert list(features) == ["head"]
    with torch.inference_mode():
        torch.testing.assert_close(
            model.fc(torch.from_numpy(features["head"])), model(normal(torch.from_numpy(images)))
        )


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_sees_neither_rotation_nor_scale_nor_shift(debiased):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 12)) * np.arange(1, 13)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    assert probes.cka(a, 7 * a @ rotation + 3, debiased) == pytest.approx(1, abs=1e-12)
    stretched = a * np.arange(12, 0, -1) ** 2
    assert probes.cka(a, stretched, debiased) < 0.8


def test_cka_of_the_unrelated_is_near_nothing_and_debiased_around_it():
    rng = np.random.default_rng(0)
    assert probes.cka(*rng.normal(size=(2, 3000, 10))) < 0.01
    # fewer images than dimensions: the plain one is far from 0
    few = [rng.normal(size=(2, 40, 80)) for _ in range(30)]
    assert np.mean([probes.cka(*pair) for pair in few]) > 0.5
    assert np.mean([probes.cka(*pair, debiased=True) for pair in few]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_that_of_the_kernels_written_out(debiased):
    rng, n = np.random.default_rng(0), 25
    a, b = rng.normal(size=(n, 6)) + 2, rng.normal(size=(n, 9)) - 1
    b[:, :6] += a

    def centred(kernel):  # Székely's U-centring for the debiased one: the diagonal is left out
        if not debiased:
            return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
        kernel = kernel - np.diag(np.diag(kernel))
        kernel = (
            kernel
            - kernel.sum(0) / (n - 2)
            - kernel.sum(1)[:, None] / (n - 2)
            + kernel.sum() / ((n - 1) * (n - 2))
        )
        return kernel - np.diag(np.diag(kernel))

    k, m = centred(a @ a.T), centred(b @ b.T)
    assert probes.cka(a, b, debiased) == pytest.approx(
        (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), rel=1e-9
    )


def test_cka_needs_the_same_images():
    with pytest.raises(probes.ProbeError, match="got 5 and 6"):
        probes.cka(np.ones((5, 2)), np.ones((6, 2)))


def test_a_gap_is_split_into_features_and_final_layer():
    """Heads 0.8 and 0.5, new final layers on the same features 0.85 and 0.75."""
    rng = np.random.default_rng(0)
    luck = rng.random((5, 1000))
    heads = {"real": luck < 0.8, "sd": luck < 0.5, "copy": luck < 0.8}
    new = {"real": luck < 0.85, "sd": luck < 0.75, "copy": luck < 0.85}
    parts = probes.decompose(new, heads, "real")
    assert list(parts) == ["sd", "copy"]
    means = [parts["sd"][name]["mean"] for name in ("gap", "features", "final_layer", "share")]
    assert means == pytest.approx([-0.3, -0.1, -0.2, 1 / 3], abs=0.03)
    assert parts["sd"]["gap"] == stats.difference(heads["sd"], heads["real"])
    assert parts["sd"]["share"]["low"] < 1 / 3 < parts["sd"]["share"]["high"]
    assert parts["copy"]["share"] is None and stats.verdict(parts["copy"]["gap"]) == "equivalent"


def test_means_and_differences_are_paired_by_seed():
    seeds = {
        "real": [{"sparsity": 0.1}, {"sparsity": 0.3}],
        "sd": [{"sparsity": 0.2}, {"sparsity": 0.4}],
    }
    means, differences = representation.tables(seeds, "real")
    assert means["sd"] == {"sparsity": stats.over_seeds([0.2, 0.4])}
    assert list(differences) == ["sd"]
    family = stats.family({"sparsity": stats.difference([0.2, 0.4], [0.1, 0.3])})
    assert differences["sd"] == family


def test_similarity_is_to_the_base_of_the_same_seed_and_of_the_base_to_its_next():
    rng = np.random.default_rng(0)
    features = {
        arm: [{"head": rng.normal(size=(20, 3))} for _ in range(2)] for arm in ("real", "sd")
    }
    table = probes.similarity(features, "real")
    pairs = {"real": [(0, "real", 1), (1, "real", 0)], "sd": [(0, "real", 0), (1, "real", 1)]}
    for arm, rows in pairs.items():
        expected = [probes.cka(features[arm][k]["head"], features[other][j]["head"], debiased=True)
                    for k, other, j in rows]
        assert table[arm]["head"] == stats.over_seeds(expected)
