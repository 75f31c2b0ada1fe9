"""Goldens of sampling: the schedule's sigmas, and an image by diffusers' StableDiffusion3Pipeline from given noise and context."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

import mmdit
import vae
from formula import load, save, uniform, weights

STEPS, CFG, TOKENS = 10, 4.5, 7
ROWS, COLUMNS = 4, 6
AUTOENCODER = dict(channels=[32, 32, 64, 64], blocks=1)


def pipeline(arguments, state, picture_state):
    """The pipeline of diffusers around networks of these single-file weights."""
    transformer = SD3Transformer2DModel(**mmdit.configuration(**arguments))
    load(transformer, mmdit.to_diffusers(state, arguments["depth"]))
    autoencoder = AutoencoderKL(**vae.configuration(groups=32, **AUTOENCODER))
    load(autoencoder, vae.to_diffusers(picture_state, len(AUTOENCODER["channels"])))
    made = StableDiffusion3Pipeline(
        transformer=transformer, vae=autoencoder, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )
    made.set_progress_bar_config(disable=True)
    return made


def draw(made, prompt, negative, noise, steps):
    """The latents at the end, and the image's bytes, [height, width, 3]; prompts are pairs of context and pooled vector."""
    height, width = (8 * side for side in noise.shape[2:])

    def run(output_type):
        return made(
            prompt_embeds=prompt[0], pooled_prompt_embeds=prompt[1],
            negative_prompt_embeds=negative[0], negative_pooled_prompt_embeds=negative[1],
            latents=noise.clone(), num_inference_steps=steps, guidance_scale=CFG, height=height, width=width,
            output_type=output_type,
        ).images

    latents = run("latent")
    picture = torch.frombuffer(bytearray(run("pil")[0].tobytes()), dtype=torch.uint8).view(height, width, 3)
    clamped = ((picture == 0) | (picture == 255)).float().mean()
    print(f"latents {latents.std():.2f} bytes {picture.float().mean():.0f} ± {picture.float().std():.0f}, {clamped:.0%} clamped")
    return latents, picture


def golden(form):
    shapes, picture_shapes = mmdit.single_file_shapes(**mmdit.FORMS[form]), vae.single_file_shapes(**AUTOENCODER)
    made = pipeline(mmdit.FORMS[form], weights(shapes), weights(picture_shapes))
    inputs = {"noise": uniform("sampler noise", [1, 16, ROWS, COLUMNS]) * 1.75}
    for name in ("prompt", "negative"):
        inputs[f"{name} context"] = uniform(f"sampler {name} context", [1, TOKENS, mmdit.CONTEXT])
        inputs[f"{name} pooled"] = uniform(f"sampler {name} pooled", [1, mmdit.POOLED])

    prompt, negative = ((inputs[f"{name} context"], inputs[f"{name} pooled"]) for name in ("prompt", "negative"))
    latents, picture = draw(made, prompt, negative, inputs["noise"], STEPS)
    sigmas = {}
    for steps in (4, 10, 28):
        made.scheduler.set_timesteps(steps)
        sigmas[f"sigmas {steps}"] = made.scheduler.sigmas
        assert torch.allclose(made.scheduler.timesteps, 1000 * made.scheduler.sigmas[:-1])
    config = dict(mmdit.configuration(**mmdit.FORMS[form]), steps=STEPS, cfg=CFG, shift=3.0)
    save(f"sampler-{form}", shapes | picture_shapes, config, inputs | sigmas | {"latents": latents, "image": picture})


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    for form in mmdit.FORMS:
        golden(form)
