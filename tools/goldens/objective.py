"""Goldens of what is learnt and how fast: densities of timesteps, weightings, losses with their gradients, schedules.

diffusers' compute_density_for_timestep_sampling and compute_loss_weighting_for_sd3, torch's losses with the outputs preconditioned as
in diffusers' train_dreambooth_sd3.py, and transformers' schedules."""

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch.nn.functional import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from transformers import optimization

from formula import save, uniform

DENSITIES = {
    "LogitNormal(mean: -0.5, standard_deviation: 1.5)": dict(weighting_scheme="logit_normal", logit_mean=-0.5, logit_std=1.5),
    "Mode()": dict(weighting_scheme="mode", mode_scale=1.29),
    "Mode(scale: -0.5)": dict(weighting_scheme="mode", mode_scale=-0.5),
    "Uniform": dict(weighting_scheme="none"),
}
WEIGHTINGS = {"None": "none", "SigmaSqrt": "sigma_sqrt", "CosMap": "cosmap"}


def exponential(delta):
    """sd-scripts' get_huber_threshold_if_needed: exp(t·ln(huber_c)/1000)."""
    return lambda sigma: delta**sigma


LOSSES = {
    "L2": lambda sigma: lambda found, expected: mse_loss(found, expected),
    "L1": lambda sigma: lambda found, expected: l1_loss(found, expected),
    "Huber(delta: 0.3)": lambda sigma: lambda found, expected: huber_loss(found, expected, delta=0.3),
    "Huber(delta: 0.1, schedule: Exponential)":
        lambda sigma: lambda found, expected: huber_loss(found, expected, delta=exponential(0.1)(sigma)),
    "SmoothL1(beta: 0.2)": lambda sigma: lambda found, expected: smooth_l1_loss(found, expected, beta=0.2),
}
SHAPE, SIGMAS = [2, 3, 2], [0.02, 0.4, 0.95]
LEARNING_RATE, TOTAL = 2e-4, 100
SCHEDULES = {
    "Constant(warmup: 10)": lambda of: optimization.get_constant_schedule_with_warmup(of, 10),
    "Linear(warmup: Share(0.1))": lambda of: optimization.get_linear_schedule_with_warmup(of, 10, TOTAL),
    "Cosine(warmup: 7)": lambda of: optimization.get_cosine_schedule_with_warmup(of, 7, TOTAL),
    "Cosine(warmup: 7, minimum_ratio: 0.1)":
        lambda of: optimization.get_cosine_with_min_lr_schedule_with_warmup(of, 7, TOTAL, min_lr_rate=0.1),
    "CosineWithRestarts(warmup: 10, cycles: 3)":
        lambda of: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(of, 10, TOTAL, num_cycles=3),
    "Polynomial(warmup: 5, power: 2, minimum_ratio: 0.05)":
        lambda of: optimization.get_polynomial_decay_schedule_with_warmup(of, 5, TOTAL, lr_end=0.05 * LEARNING_RATE, power=2),
    "InverseSqrt()": lambda of: optimization.get_inverse_sqrt_schedule(of, 0),
    "InverseSqrt(warmup: 10)": lambda of: optimization.get_inverse_sqrt_schedule(of, 10),
    "InverseSqrt(warmup: 10, timescale: Some(4))": lambda of: optimization.get_inverse_sqrt_schedule(of, 10, timescale=4),
    "WarmupStableDecay(warmup: 10, decay: 20, minimum_ratio: 0.1)":
        lambda of: optimization.get_wsd_schedule(of, 10, 20, TOTAL, min_lr_ratio=0.1),
    "WarmupStableDecay(warmup: 10, decay: Share(0.3), shape: Linear)":
        lambda of: optimization.get_wsd_schedule(of, 10, 30, TOTAL, decay_type="linear"),
    "WarmupStableDecay(decay: 50, shape: OneMinusSqrt, minimum_ratio: 0.2)":
        lambda of: optimization.get_wsd_schedule(of, 0, 50, TOTAL, decay_type="1-sqrt", min_lr_ratio=0.2),
}


def seeded():
    return torch.Generator().manual_seed(1)


def densities(tensors, count=32):
    tensors["uniform"] = torch.rand(count, generator=seeded())
    for ron, arguments in DENSITIES.items():
        tensors[f"density {ron}"] = compute_density_for_timestep_sampling(batch_size=count, generator=seeded(), **arguments)
    # diffusers draws a normal and not a quantile: by the inverse of what it does, these are the uniforms that give its values.
    normal = torch.normal(0.0, 1.0, size=(count,), generator=seeded())
    tensors["normal shares"] = torch.special.ndtr(normal)


def weightings(tensors):
    tensors["sigmas"] = torch.linspace(0.001, 1, 37)
    for ron, scheme in WEIGHTINGS.items():
        tensors[f"weighting {ron}"] = compute_loss_weighting_for_sd3(scheme, tensors["sigmas"]).double()


def losses(tensors):
    """Each sample on its own, so that nothing can be mixed up between them."""
    shape = [len(SIGMAS), *SHAPE]
    raw, noise, velocity = (uniform(name, shape).double() for name in ("raw", "noise", "velocity"))
    latents = (raw - 0.0609) * 1.5305
    for target in ("Velocity", "X0"):
        for weighting, scheme in WEIGHTINGS.items():
            for ron, loss in LOSSES.items():
                found, each = velocity.clone().requires_grad_(), []
                for index, sigma in enumerate(SIGMAS):
                    made, goal = found[index], noise[index] - latents[index]
                    if target == "X0":
                        noisy = sigma * noise[index] + (1 - sigma) * latents[index]
                        made, goal = noisy - sigma * made, latents[index]
                    weight = compute_loss_weighting_for_sd3(scheme, torch.tensor(sigma))
                    each.append(weight.double() * loss(sigma)(made, goal))
                total = torch.stack(each).mean()
                total.backward()
                tensors[f"loss {target} {weighting} {ron}"] = total
                tensors[f"gradient {target} {weighting} {ron}"] = found.grad


def schedules(tensors):
    for ron, make in SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LEARNING_RATE)
        factor = make(optimizer).lr_lambdas[0]
        tensors[f"schedule {ron}"] = torch.tensor([factor(step) for step in range(TOTAL + 1)])


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    tensors = {}
    for part in (densities, weightings, losses, schedules):
        part(tensors)
    save("objective", {}, dict(shape=SHAPE, loss_sigmas=SIGMAS, total=TOTAL), tensors)
