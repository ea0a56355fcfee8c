import pytest
import torch
from diffusers import DDIMScheduler

from mcpkg.method.diffusion import add_noise, min_snr_weight, predict_x0, training_target, velocity_weight


def scheduler(prediction_type="epsilon"):
    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, prediction_type=prediction_type)


def test_the_true_noise_gives_the_clean_latents_back(generator):
    latents = torch.randn(6, 4, 3, 5, generator=generator)
    noisy, noise, t = add_noise(latents, scheduler(), generator, max_timestep=600)
    torch.testing.assert_close(predict_x0(noisy, noise, t, scheduler()), latents, atol=1e-4, rtol=0)


def test_the_true_velocity_gives_the_clean_latents_back(generator):
    latents, velocity = torch.randn(6, 4, 3, 5, generator=generator), scheduler("v_prediction")
    noisy, noise, t = add_noise(latents, velocity, generator)
    target = training_target(latents, noise, t, velocity)
    torch.testing.assert_close(predict_x0(noisy, target, t, velocity), latents, atol=1e-4, rtol=0)


def test_the_noise_is_the_target_of_noise_prediction(generator):
    latents = torch.zeros(1, 4, 2, 2)
    _, noise, t = add_noise(latents, scheduler(), generator)
    assert training_target(latents, noise, t, scheduler()) is noise


def test_noisy_latents_by_hand():
    # a = 0.36 at every t: z_t = 0.6 z + 0.8 eps, and z0 = (z_t - 0.8 eps) / 0.6.
    fixed = scheduler()
    fixed.alphas_cumprod = torch.full((1000,), 0.36)
    latents = torch.full((1, 1, 1, 1), 5.0)
    noisy, noise, t = add_noise(latents, fixed, torch.Generator().manual_seed(1))
    torch.testing.assert_close(noisy, 0.6 * latents + 0.8 * noise)
    # Noise predicted 1 too high: z0 is 0.8 / 0.6 too low, 5 - 4/3.
    torch.testing.assert_close(predict_x0(noisy, noise + 1, t, fixed), latents - 4 / 3)


def test_timesteps_stay_below_their_bound_and_reach_it(generator):
    latents = torch.zeros(4000, 1, 1, 1)
    _, _, t = add_noise(latents, scheduler(), generator, max_timestep=10)
    assert t.unique().tolist() == list(range(10))
    bounds = torch.tensor([1, 1000]).repeat(2000)
    _, _, t = add_noise(latents, scheduler(), generator, max_timestep=bounds)
    assert t[bounds == 1].max() == 0 and t[bounds == 1000].max() > 900


def test_the_same_generator_gives_the_same_noise():
    latents = torch.zeros(2, 4, 8, 8)
    first, second = (add_noise(latents, scheduler(), torch.Generator().manual_seed(3)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bound", [0, 1001])
def test_a_bound_outside_the_schedule_is_an_error(generator, bound):
    with pytest.raises(ValueError, match="not in 1 to 1000"):
        add_noise(torch.zeros(1, 1, 1, 1), scheduler(), generator, max_timestep=bound)


def test_an_unknown_prediction_type_is_an_error(generator):
    latents = torch.zeros(1, 1, 1, 1)
    noisy, noise, t = add_noise(latents, scheduler("sample"), generator)
    with pytest.raises(ValueError, match="'sample' is not supported"):
        predict_x0(noisy, noise, t, scheduler("sample"))


def test_the_estimate_passes_gradient_to_the_prediction(generator):
    noisy, noise, t = add_noise(torch.zeros(2, 1, 2, 2), scheduler(), generator)
    prediction = noise.clone().requires_grad_()
    predict_x0(noisy, prediction, t, scheduler()).sum().backward()
    a = scheduler().alphas_cumprod[t].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(prediction.grad, (-((1 - a) / a).sqrt()).expand_as(noise))


def test_a_weighted_noise_error_is_the_error_in_velocity(generator):
    latents, t = torch.randn(2, 1, 2, 2, generator=generator), torch.tensor([100, 400])
    noise, wrong = torch.randn(2, 2, 1, 2, 2, generator=generator)
    a = scheduler().alphas_cumprod[t].reshape(-1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    # the velocity that a prediction stands for is sqrt(a) eps - sqrt(1 - a) x0, with x0 by Tweedie
    x0 = (noisy - (1 - a).sqrt() * wrong) / a.sqrt()
    error = (a.sqrt() * wrong - (1 - a).sqrt() * x0) - (a.sqrt() * noise - (1 - a).sqrt() * latents)
    weight = velocity_weight(t, scheduler())
    torch.testing.assert_close(
        error.square().mean(dim=(1, 2, 3)), weight * (wrong - noise).square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=0
    )


def test_the_weight_is_bounded_and_none_where_velocity_is_predicted():
    t = torch.tensor([0, 999])
    assert velocity_weight(t, scheduler(), highest=5.0).tolist() == pytest.approx([1.0, 5.0], abs=1e-3)
    assert velocity_weight(t, scheduler("v_prediction")).tolist() == [1.0, 1.0]


def test_min_snr_weights_are_those_of_the_closed_formula():
    def of(prediction_type):
        schedule = scheduler(prediction_type)
        schedule.alphas_cumprod = torch.tensor([0.9, 0.5, 0.2, 0.0])  # SNR 9, 1, 1/4, 0
        return min_snr_weight(torch.arange(4), schedule, gamma=5.0).tolist()

    # noise: 5/9, then min(SNR, 5) / SNR = 1; velocity: 5/10, 1/2, 0.25/1.25, 0/1
    assert of("epsilon") == pytest.approx([5 / 9, 1.0, 1.0, 1.0])
    assert of("v_prediction") == pytest.approx([0.5, 0.5, 0.2, 0.0], abs=1e-6)


def test_min_snr_weights_are_those_of_diffusers():
    from diffusers.training_utils import compute_snr

    t, schedule = torch.arange(0, 1000, 37), scheduler()
    snr = compute_snr(schedule, t)
    torch.testing.assert_close(min_snr_weight(t, schedule, 5.0), snr.clamp(max=5.0) / snr, rtol=1e-3, atol=0)
