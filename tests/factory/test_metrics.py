import pytest
import torch

from mcpkg.factory.metrics import frechet_distance, iou, psnr, verification_tar


def test_psnr_of_an_error_of_one_tenth_is_twenty_decibels():
    zeros = torch.zeros(2, 3, 4, 4)
    images = torch.stack([zeros[0] + 0.1, zeros[1] + 0.01])  # -10 log10(0.01) = 20, -10 log10(0.0001) = 40
    torch.testing.assert_close(psnr(images, zeros), torch.tensor([20.0, 40.0]))


def test_iou_is_worked_per_sample():
    masks = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    targets = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    torch.testing.assert_close(iou(masks, targets), torch.tensor([1 / 3, 1.0]))  # both empty: nothing is wrong


def test_verification_accepts_pairs_above_all_impostors():
    angles = torch.tensor([0.0, 0.1, 1.5, 2.5])  # person 0: cos 0.1 = 0.995; person 1: cos 1 = 0.54
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 1])
    # Impostors: cos 1.5 = 0.07, cos 2.5 = -0.80, cos 1.4 = 0.17, cos 2.4 = -0.74: both pairs are above.
    assert verification_tar(embeddings, labels) == 1.0
    # One pair of each person is now further apart than the closest strangers.
    assert verification_tar(embeddings, torch.tensor([0, 1, 1, 0])) == 0.0


def test_verification_threshold_follows_the_false_acceptance_rate():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(400, 8, generator=generator), dim=1)
    labels = torch.arange(400) // 2
    # Labels say nothing about the vectors, so as many friends as strangers are accepted.
    assert verification_tar(embeddings, labels, far=0.5) == pytest.approx(0.5, abs=0.1)


def test_verification_needs_pairs_of_both_kinds():
    with pytest.raises(ValueError, match="same person"):
        verification_tar(torch.eye(3), torch.arange(3))


def test_frechet_distance_of_independent_axes_by_hand():
    # Means 0 and (3, 0), deviations (1, 1) and (2, 1): 9 + (1 - 2)^2 + 0 = 10.
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    moved = corners * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 0.0])
    assert frechet_distance(corners, moved) == pytest.approx(10.0)


def test_frechet_distance_to_itself_is_zero_even_with_fewer_samples_than_features():
    features = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)
