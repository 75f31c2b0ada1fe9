"""Golden of the stages from captions and pictures to sampled images, each by the reference libraries, on one small model.

The order of the data and all that is drawn come from `draws.py`, so that the stages' own choices are held fast too."""

import json
import math

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from tokenizers import Tokenizer
from transformers import get_cosine_schedule_with_warmup

import clip
import mmdit
import sampler
import t5
import vae
from draws import Draws
from formula import load, save, sketch, uniform, weights

# What OpenAI's tokenizer makes of the texts, without start and end.
TEXTS = {"": [], "a photo of sks dog": [320, 1125, 539, 48136, 1929], "a dog": [320, 1929]}
START, END, CLIP_VOCABULARY, CLIP_TOKENS, T5_TOKENS = 49406, 49407, 49408, 77, 9
# Repeats, texts, width and height.
ITEMS = {
    "a.png": (2, ["a dog", "a photo of sks dog"], 64, 48),
    "b.png": (1, ["a photo of sks dog"], 64, 48),
    "c.png": (1, ["a dog"], 48, 64),
}
TRAIN = dict(
    epochs=2, batch=2, accumulate=2, seed=7, learning_rate=1e-3, warmup=1, weight_decay=0.01, largest_norm=1.0, shift=3.0,
    caption_dropout=0.4, t5_dropout=0.4,
)
SAMPLE = dict(prompt="a photo of sks dog", negative="", steps=4, seed=1, width=64, height=48)
FORM = mmdit.FORMS["3.5-medium"] | dict(context=2 * clip.WIDTH + 32, pooled=2 * clip.WIDTH)

# Letters and the mark of a word's beginning.
PIECES = [["<pad>", 0], ["</s>", 0], ["<unk>", -20], *([piece, -3] for piece in "▁abcdefghijklmnopqrstuvwxyz")]
T5_TOKENIZER = json.dumps({
    "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None, "decoder": None,
    "added_tokens": [
        dict(id=index, content=piece, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for index, (piece, _) in enumerate(PIECES[:3])
    ],
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "model": {"type": "Unigram", "unk_id": 2, "vocab": PIECES, "byte_fallback": False},
})


def encode_texts(shapes):
    """For each text the outputs of CLIP-L, CLIP-G and T5, padding included."""
    encoded = {text: {} for text in TEXTS}
    for name, activation, projected, padding in (("clip_l", "quick_gelu", False, END), ("clip_g", "gelu", True, 0)):
        shapes[name], _, model = clip.network(activation, projected, CLIP_VOCABULARY, CLIP_TOKENS)
        for text, ids in TEXTS.items():
            ids = [START, *ids, END]
            ids = torch.tensor([ids + [padding] * (CLIP_TOKENS - len(ids))])
            output = model(input_ids=ids, output_hidden_states=True)
            encoded[text][f"{name}.states"] = output.hidden_states[-2][0]
            encoded[text][f"{name}.pooled"] = output.text_embeds[0]
    shapes["t5xxl"], _, model = t5.network(FORM["context"])
    tokenizer = Tokenizer.from_str(T5_TOKENIZER)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids[:T5_TOKENS - 1] + [1]
        ids = torch.tensor([ids + [0] * (T5_TOKENS - len(ids))])
        encoded[text]["t5.states"] = model(input_ids=ids).last_hidden_state[0]
    return encoded


def conditioning(encoded, keep_t5=True):
    """The context and the pooled vector as StableDiffusion3Pipeline.encode_prompt puts them together."""
    clips = torch.cat([encoded["clip_l.states"], encoded["clip_g.states"]], dim=-1)
    clips = torch.nn.functional.pad(clips, (0, FORM["context"] - clips.shape[-1]))
    t5_states = encoded["t5.states"] if keep_t5 else torch.zeros_like(encoded["t5.states"])
    return torch.cat([clips, t5_states]), torch.cat([encoded["clip_l.pooled"], encoded["clip_g.pooled"]])


def picture(item):
    """Bytes in rows of red, green and blue."""
    _, _, width, height = ITEMS[item]
    return ((uniform(f"picture {item}", [height, width, 3]) + 1) * 128).to(torch.uint8)


def encode_images(autoencoder):
    latents = {}
    for item in ITEMS:
        image = picture(item).permute(2, 0, 1).float() / 127.5 - 1
        distribution = autoencoder.encode(image[None]).latent_dist
        latents[item] = (distribution.mean[0], distribution.logvar[0])
    return latents


def batches(epoch):
    """(item, repeat) batch by batch: buckets from narrow to wide, each shuffled, then the batches."""
    buckets = {}
    for item, (repeats, _, width, height) in ITEMS.items():
        buckets.setdefault((width, height), []).extend((item, repeat) for repeat in range(repeats))
    made = []
    for (width, height), turns in sorted(buckets.items()):
        Draws(TRAIN["seed"], "order in bucket", epoch, f"{width}x{height}").shuffle(turns)
        made += [turns[start:start + TRAIN["batch"]] for start in range(0, len(turns), TRAIN["batch"])]
    Draws(TRAIN["seed"], "order of batches", epoch, "").shuffle(made)
    return made


def sample_loss(network, item, repeat, step, encoded, latents):
    def draws(stream):
        return Draws(TRAIN["seed"], stream, step, f"{item}#{repeat}")

    mean, log_variance = latents[item]
    raw = mean + torch.exp(log_variance / 2) * draws("posterior").noise(mean.shape)
    clean = (raw - 0.0609) * 1.5305
    noise = draws("noise").noise(mean.shape)
    u = 1 / (1 + math.exp(-draws("timestep").normals(1)[0]))
    sigma = max(1e-3, TRAIN["shift"] * u / (1 + (TRAIN["shift"] - 1) * u))
    texts = ITEMS[item][1]
    text = texts[draws("caption variant").below(len(texts))]
    if draws("caption dropout").uniform() < TRAIN["caption_dropout"]:
        text = ""
    keep_t5 = bool(draws("T5 dropout").uniform() >= TRAIN["t5_dropout"])
    print(f"step {step}: {item}, repeat {repeat}, sigma {sigma:.3f}, {text!r}", "" if keep_t5 else "without T5")
    context, pooled = conditioning(encoded[text], keep_t5)
    velocity = network(
        hidden_states=((1 - sigma) * clean + sigma * noise)[None], timestep=torch.tensor([1000 * sigma], dtype=torch.float32),
        encoder_hidden_states=context[None], pooled_projections=pooled[None], return_dict=False,
    )[0]
    return (velocity[0] - (noise - clean)).square().mean()


def train(state, encoded, latents):
    model = SD3Transformer2DModel(**mmdit.configuration(**FORM))
    trained = {name: value.clone().requires_grad_() for name, value in sorted(state.items()) if name != "pos_embed"}

    def network(**inputs):
        single = {"pos_embed": state["pos_embed"]} | trained
        return torch.func.functional_call(model, mmdit.to_diffusers(single, FORM["depth"]), (), inputs)

    steps = []
    for epoch in range(TRAIN["epochs"]):
        made = batches(epoch)
        steps += [sum(made[start:start + TRAIN["accumulate"]], []) for start in range(0, len(made), TRAIN["accumulate"])]
    optimizer = torch.optim.AdamW(trained.values(), lr=TRAIN["learning_rate"], weight_decay=TRAIN["weight_decay"])
    schedule = get_cosine_schedule_with_warmup(optimizer, TRAIN["warmup"], len(steps))
    losses = []
    for step, turns in enumerate(steps):
        each = [sample_loss(network, item, repeat, step, encoded, latents) for item, repeat in turns]
        loss = sum(each) / len(each)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), TRAIN["largest_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print("losses", losses)
    return losses, {name: value.detach() for name, value in trained.items()}


@torch.no_grad()
def main():
    shapes = {"mmdit": mmdit.single_file_shapes(**FORM), "vae": vae.single_file_shapes(**sampler.AUTOENCODER)}
    encoded = encode_texts(shapes)
    picture_state = weights(shapes["vae"])
    autoencoder = AutoencoderKL(**vae.configuration(groups=32, **sampler.AUTOENCODER))
    latents = encode_images(load(autoencoder, vae.to_diffusers(picture_state, len(sampler.AUTOENCODER["channels"]))))
    start = weights(shapes["mmdit"])
    with torch.enable_grad():
        losses, trained = train(start, encoded, latents)

    tensors = {f"text {text} {name}": sketch(name, value) for text, arrays in encoded.items() for name, value in arrays.items()}
    for item, pair in latents.items():
        for name, value in zip(("mean", "log_variance"), pair):
            tensors[f"latents {item} {name}"] = sketch(name, value)
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors["updates"] = torch.stack([sketch(name, value - start[name]) for name, value in trained.items()])
    noise = Draws(SAMPLE["seed"], "sample noise", 0, "").noise([1, 16, SAMPLE["height"] // 8, SAMPLE["width"] // 8])
    prompt, negative = (
        [part[None] for part in conditioning(encoded[SAMPLE[name]])] for name in ("prompt", "negative")
    )
    for row, state in (("base", start), ("epoch 2", start | trained)):
        made = sampler.pipeline(FORM, state, picture_state)
        _, tensors[f"image {row}"] = sampler.draw(made, prompt, negative, noise, SAMPLE["steps"])
    config = dict(
        items=ITEMS, train=TRAIN, sample=SAMPLE | dict(cfg=sampler.CFG), t5_tokens=T5_TOKENS, t5_tokenizer=T5_TOKENIZER,
    )
    shapes = {f"{network} {name}": shape for network, named in shapes.items() for name, shape in named.items()}
    save("stages", shapes, config, tensors)


if __name__ == "__main__":
    main()
