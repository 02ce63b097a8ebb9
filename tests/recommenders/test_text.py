"""Text features of items and histories: by hand, for new items, and through a file."""

import numpy as np
import pytest

from laser.recommenders.text import TextMeans, whitened


@pytest.fixture
def features_IH() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32) + 5


def test_a_history_is_the_decayed_mean_of_its_items(features_IH):
    means = TextMeans.of(features_IH, 4, 0.5)
    white_IW = whitened(features_IH, 4)
    np.testing.assert_array_equal(means.items(np.array([3, 3, 29])), 2 * white_IW[[3, 3, 29]])
    found_BW = means.histories(np.array([7, 8, 9, 2]), np.array([3, 1]))
    expected_W = 0.25 * white_IW[7] + 0.5 * white_IW[8] + white_IW[9]
    np.testing.assert_allclose(found_BW[0], 2 * expected_W / np.linalg.norm(expected_W), rtol=1e-5)
    np.testing.assert_allclose(found_BW[1], 2 * white_IW[2], rtol=1e-5)


def test_new_items_are_seen_in_the_components_of_the_known_ones(features_IH, tmp_path):
    TextMeans.of(features_IH, 4, 0.5).write(tmp_path / "means.safetensors")
    means = TextMeans.read(tmp_path / "means.safetensors", 0.7)
    more = means.with_new(features_IH[[5, 6]])
    assert means.decay == more.decay == 0.7 and len(more.white_IW) == 32
    np.testing.assert_allclose(more.white_IW[30:], means.white_IW[[5, 6]], rtol=1e-6)
    np.testing.assert_array_equal(more.white_IW[:30], means.white_IW)


def test_more_components_than_the_features_have_are_zero():
    means = TextMeans.of(np.eye(3, dtype=np.float32), 5, 0.5)
    assert not means.white_IW[:, 2:].any() and means.white_IW[:, :2].all(axis=1).any()
