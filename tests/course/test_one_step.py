import pytest
import torch

from mcpkg.course.one_step import estimate_x0, x0_gradient
from mcpkg.method.diffusion import predict_x0
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits

PROMPT = "a photo of a person"


def estimate(backend, timestep=300, n=2):
    latents = backend.encode(tiny_portraits(backend, n).images).detach()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return latents, noise, estimate_x0(backend, latents, noise, [PROMPT] * n, timestep)


def test_the_estimate_is_tweedies_formula_of_the_prediction():
    backend = tiny_backend()
    latents, noise, step = estimate(backend)
    t = torch.tensor([300, 300])
    torch.testing.assert_close(step.noisy, backend.pipeline.scheduler.add_noise(latents, noise, t))
    clean = predict_x0(step.noisy, step.noise_pred, t, backend.pipeline.scheduler)
    torch.testing.assert_close(step.images, backend.decode(clean).float())
    assert len(step) == 2 and not step.images.requires_grad


def test_the_gradient_is_the_slope_of_the_loss_in_the_predicted_noise():
    backend = tiny_backend()
    _, _, step = estimate(backend)

    def loss(images):
        return images.square().mean(dim=(1, 2, 3))

    values, gradient = x0_gradient(backend, step, loss)
    small = 1e-2 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    t, scheduler = torch.tensor([300, 300]), backend.pipeline.scheduler
    ahead, behind = (loss(backend.decode(predict_x0(step.noisy, step.noise_pred + sign * small, t, scheduler)))
                     for sign in (1, -1))  # fmt: skip
    slope = ((ahead - behind) / 2e-2).detach()
    torch.testing.assert_close(slope, gradient.flatten(1).norm(dim=1), rtol=0.05, atol=1e-6)
    torch.testing.assert_close(values, loss(step.images))


def test_one_image_does_not_affect_the_gradient_of_another():
    backend = tiny_backend()
    _, _, step = estimate(backend)
    _, gradient = x0_gradient(backend, step, lambda images: images.mean(dim=(1, 2, 3)) * torch.tensor([1.0, 0.0]))
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0


def test_a_timestep_outside_of_the_schedule_raises():
    with pytest.raises(ValueError, match="timestep: 1000 is not in 0 to 999"):
        estimate(tiny_backend(), timestep=1000)


def test_the_number_of_prompts_must_match():
    backend = tiny_backend()
    latents, noise, _ = estimate(backend)
    with pytest.raises(ValueError, match="1 for 2 images"):
        estimate_x0(backend, latents, noise, [PROMPT], 300)
