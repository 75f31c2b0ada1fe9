"""Makes the pictures of docs/guide.md: the demo and a small grid over it are run, and their pages photographed.

    python tools/guide_pictures.py target/release/sd3pipe [--folder FOLDER]

It takes Chromium and Pillow. What was run is kept in the folder's store: a second call only photographs. Each picture has less than
200 kB.
"""

import argparse
import base64
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check_report import BROWSERS, Browser
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "pipelines" / "demo.ron"
MOST_BYTES = 200_000
WIDTH = 860

PIPELINES = {
    "demo": '(extends: "{demo}", name: "demo")',
    "rates": """(
    extends: "{demo}",
    name: "rates",
    grid: {{ "train.learning_rate": [5e-4, 5e-6, 1.5e-2] }},
    stages: {{
        "train": Train(epochs: 15),
        "export": Export(epochs: Only([5, 15])),
        "sample": Sample(seeds: [1, 2]),
    }},
)""",
}

# The picture, the page, what is clicked before, the heading of the section, and how much of its height is shown at most.
PICTURES = [
    ("guide-verdicts", "demo/report.html", "document.querySelector('details.card:last-of-type').open = true", "Which checkpoint", 782),
    ("guide-samples", "demo/report.html", "", "Samples", 868),
    ("guide-training", "demo/report.html", "", "Training", 420),
    ("guide-data", "demo/report.html", "", "Data", 502),
    ("guide-grid", "rates/comparison.html", "", "Which of them", 700),
    ("guide-grid-samples", "rates/comparison.html", "document.querySelector('.compare').remove()", "Samples", 700),
]

BOX = """(() => {
    const heading = [...document.querySelectorAll('h2')].find(heading => heading.textContent.startsWith(%r));
    const box = heading.parentElement.getBoundingClientRect();
    return [box.left + scrollX, box.top + scrollY, box.width, box.height];
})()"""


def photograph(browser: Browser, page: Path, click: str, heading: str, most: int) -> Image.Image:
    browser.size(WIDTH, 900, mobile=False)
    browser.open(page)
    browser.ask(click or "0")
    left, top, width, height = browser.ask(BOX % heading)
    clip = {"x": left, "y": top, "width": width, "height": min(height, most), "scale": 1}
    shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def small(image: Image.Image) -> bytes:
    """A PNG with as many colours as have room."""
    for colors in [256, 128, 64, 32]:
        file = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if len(file.getvalue()) < MOST_BYTES:
            return file.getvalue()
    sys.exit("a picture is too large")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program", type=Path)
    arguments.add_argument("--folder", type=Path, help="where it is run, to be kept")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = (given.folder or Path(temporary) / "runs").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in PIPELINES.items():
            (folder / f"{name}.ron").write_text(text.format(demo=DEMO))
            subprocess.run([given.program.resolve(), "run", f"{name}.ron"], cwd=folder, check=True)
        program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        if program is None:
            sys.exit("there is no Chromium")
        browser = Browser(program, temporary)
        try:
            for name, page, click, heading, most in PICTURES:
                path = ROOT / "docs" / f"{name}.png"
                path.write_bytes(small(photograph(browser, folder / "out" / page, click, heading, most)))
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
        finally:
            browser.process.kill()
            browser.process.wait()


if __name__ == "__main__":
    main()
