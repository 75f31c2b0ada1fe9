"""How far the reference libraries are in bf16 from what they give in f32: what our networks in bf16 are held to on a GPU."""

import json

import torch
from safetensors.torch import load_file

import clip
import formula
import mmdit
import t5
import vae

OUTPUTS = {
    "mmdit": ["centre", "offset", "gradients"],
    "vae": ["mean", "log_variance", "decoded"],
    "clip": ["penultimate", "pooled"],
    "t5": ["output"],
}

errors = {}


def narrow(value):
    return value.to(torch.bfloat16)


def compare(name, _shapes, _config, tensors):
    """Takes the place of `save`: the relative error by Euclidean length of each output."""
    expected = load_file(formula.FOLDER / f"{name}.safetensors")
    errors[name] = {}
    for output in OUTPUTS[name.split("-")[0]]:
        wanted, found = expected[output].double(), tensors[output].detach().double()
        if output == "gradients":
            # Products with tensors of variance 1/3, beside lengths.
            apart, length = 3**0.5 * (found - wanted)[:, 0].norm(), wanted[:, 1].norm()
        else:
            apart, length = (found - wanted).norm(), wanted.norm()
        errors[name][output] = float(f"{apart / length:.2e}")
        print(f"{name}, {output}: {errors[name][output]}")


def main():
    for module in (mmdit, vae, clip, t5):
        module.load = lambda model, state: narrow(formula.load(model, state))
        module.uniform = lambda name, shape: narrow(formula.uniform(name, shape))
        module.weights = lambda shapes: {name: narrow(value) for name, value in formula.weights(shapes).items()}
        module.save = compare
    for form, arguments in mmdit.FORMS.items():
        mmdit.golden(f"mmdit-{form}", **arguments)
    with torch.no_grad():
        vae.goldens()
        clip.goldens()
        t5.golden()
    (formula.FOLDER / "bf16.json").write_text(json.dumps(errors, indent=4) + "\n")


if __name__ == "__main__":
    main()
