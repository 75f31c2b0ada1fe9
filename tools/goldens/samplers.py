"""Goldens of what can be added to plain sampling: DPM++ 2M, skip-layer guidance and a start from a picture, by diffusers."""

import copy

import torch
from diffusers import DPMSolverMultistepScheduler

import mmdit
import sampler
import vae
from formula import save, uniform, weights

FORM = "3.5-medium"
SKIP = dict(skip_guidance_layers=[0, 2], skip_layer_guidance_scale=2.8, skip_layer_guidance_start=0.15,
            skip_layer_guidance_stop=0.6)
STRENGTH = 0.7


class Dpm(DPMSolverMultistepScheduler):
    """With the noise levels of the Euler sampler, and so no others to explain a difference."""

    def __init__(self, euler):
        super().__init__(algorithm_type="dpmsolver++", solver_order=2, prediction_type="flow_prediction",
                         use_flow_sigmas=True, final_sigmas_type="zero")
        self.euler = euler

    def set_timesteps(self, steps, device=None, **_):
        super().set_timesteps(steps)
        self.euler.set_timesteps(steps)
        self.sigmas, self.timesteps = self.euler.sigmas.clone(), self.euler.timesteps.clone()


def run(made, prompt, negative, noise, **more):
    height, width = (8 * side for side in noise.shape[2:])
    return made(
        prompt_embeds=prompt[0], pooled_prompt_embeds=prompt[1], negative_prompt_embeds=negative[0],
        negative_pooled_prompt_embeds=negative[1], latents=noise.clone(), num_inference_steps=sampler.STEPS,
        guidance_scale=sampler.CFG, height=height, width=width, output_type="latent", **more,
    ).images


def from_picture(made, prompt, negative, noise, picture, scheduler):
    """The steps of the image-to-image pipeline from latents that are given, where it would draw them from the VAE's posterior."""
    scheduler.set_timesteps(sampler.STEPS)
    first = int(max(sampler.STEPS - min(sampler.STEPS * STRENGTH, sampler.STEPS), 0))
    scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    sigma = scheduler.sigmas[first]
    latents = sigma * noise + (1 - sigma) * picture
    for timestep in timesteps:
        both = made.transformer(
            hidden_states=torch.cat([latents] * 2), timestep=timestep.expand(2),
            encoder_hidden_states=torch.cat([negative[0], prompt[0]]),
            pooled_projections=torch.cat([negative[1], prompt[1]]), return_dict=False,
        )[0]
        without, with_prompt = both.chunk(2)
        velocity = without + sampler.CFG * (with_prompt - without)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    shapes, picture_shapes = mmdit.single_file_shapes(**mmdit.FORMS[FORM]), vae.single_file_shapes(**sampler.AUTOENCODER)
    made = sampler.pipeline(mmdit.FORMS[FORM], weights(shapes), weights(picture_shapes))
    inputs = {name: uniform(f"samplers {name}", [1, 16, sampler.ROWS, sampler.COLUMNS]) * 1.75 for name in ("noise", "picture")}
    for name in ("prompt", "negative"):
        inputs[f"{name} context"] = uniform(f"samplers {name} context", [1, sampler.TOKENS, mmdit.CONTEXT])
        inputs[f"{name} pooled"] = uniform(f"samplers {name} pooled", [1, mmdit.POOLED])
    prompt, negative = ((inputs[f"{name} context"], inputs[f"{name} pooled"]) for name in ("prompt", "negative"))
    noise, picture, euler = inputs["noise"], inputs["picture"], made.scheduler
    fresh = lambda: copy.deepcopy(euler)

    outputs = {"euler": run(made, prompt, negative, noise), "skip layers": run(made, prompt, negative, noise, **SKIP)}
    outputs["picture euler"] = from_picture(made, prompt, negative, noise, picture, fresh())
    outputs["picture dpm"] = from_picture(made, prompt, negative, noise, picture, Dpm(fresh()))
    made.scheduler = Dpm(fresh())
    outputs["dpm"] = run(made, prompt, negative, noise)
    for name, latents in outputs.items():
        print(f"{name}: {latents.std():.2f}, {(latents - outputs['euler']).norm() / outputs['euler'].norm():.2g} from Euler")
    config = dict(mmdit.configuration(**mmdit.FORMS[FORM]), steps=sampler.STEPS, cfg=sampler.CFG, shift=3.0, strength=STRENGTH)
    config["skip"] = dict(layers=SKIP["skip_guidance_layers"], scale=2.8, start=0.15, stop=0.6)
    save("samplers", shapes, config, inputs | outputs)
