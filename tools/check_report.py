"""Opens a run's report.html in headless Chromium and says what is wrong with it; nothing else is needed than Chromium and Python.

    python tools/check_report.py pipelines/out/demo/report.html [--pictures FOLDER]

The page must open without an error or a warning on the console and without a request for anything outside of it, be no wider than a
phone, and its slider must move the border between two samples. With --pictures it is photographed: light, dark, on a phone.
It speaks the DevTools protocol over a pipe.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]
DESK, PHONE = (1280, 900), (390, 844)


class Browser:
    """A browser with one page, and what it says."""

    def __init__(self, program: str, folder: str):
        to_read, to_write = os.pipe(), os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        # The protocol's pipes are the descriptors 3 and 4.
        command = f'exec "$0" "$@" 3<&{to_write[0]} 4>&{to_read[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, program, *flags, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=[to_write[0], to_read[1]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_write[0])
        os.close(to_read[1])
        self.out, self.inn = os.fdopen(to_write[1], "wb"), os.fdopen(to_read[0], "rb")
        self.events, self.last, self.session, self.rest = [], 0, None, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def receive(self) -> dict:
        while b"\0" not in self.rest:
            some = os.read(self.inn.fileno(), 1 << 20)
            if not some:
                sys.exit("the browser ended")
            self.rest += some
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params) -> dict:
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        self.out.flush()
        while True:
            answer = self.receive()
            if answer.get("id") != self.last:
                self.events.append(answer)
                continue
            if "error" in answer:
                sys.exit(f"{method}: {answer['error']['message']}")
            return answer["result"]

    def ask(self, expression: str):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            sys.exit(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def size(self, width: int, height: int, mobile: bool) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )

    def open(self, page: Path) -> None:
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + 60
        while self.ask("document.readyState") != "complete":
            if time.monotonic() > deadline:
                sys.exit("the page does not open")
            time.sleep(0.05)

    def photograph(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings, and requests for anything but the page and what is written in it."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(params["exceptionDetails"]["text"])
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                    found.append(str(params["args"]))
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
                case "Network.requestWillBeSent":
                    url = params["request"]["url"]
                    if not url.startswith(("data:", "file:", "about:")) or url.endswith("favicon.ico"):
                        found.append(f"a request for {url}")
        return found


CUT = "getComputedStyle(document.querySelector('.frame')).getPropertyValue('--cut')"


def check(browser: Browser, page: Path) -> list[str]:
    faults = []

    def expect(holds: bool, fault: str) -> None:
        if not holds:
            faults.append(fault)

    browser.size(*DESK, mobile=False)
    browser.open(page)
    expect(browser.ask("document.querySelectorAll('section').length") >= 3, "there are no sections")
    broken = "[...document.images].filter(image => !image.hidden && image.complete && !image.naturalWidth).length"
    expect(browser.ask(broken) == 0, "there are broken pictures")
    if browser.ask("document.querySelector('.frame') !== null"):
        box = "(() => { const box = document.querySelector('.frame').getBoundingClientRect(); \
               return [box.left, box.top, box.width, box.height]; })()"
        browser.ask("document.querySelector('.frame').scrollIntoView()")
        left, top, width, height = browser.ask(box)
        expect(width > 100 and height > 100, "the two samples have no room")
        before = browser.ask(CUT)
        place = {"x": left + width / 2, "y": top + height / 2, "button": "left", "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        place["x"] = left + 0.8 * width
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", buttons=1, **place)
        browser.call("Input.dispatchMouseEvent", type="mouseReleased", **place)
        after = browser.ask(CUT)
        expect(before != after and 70 < float(after.strip("%")) < 90, f"the slider went from {before} to {after}")
        clip = browser.ask("getComputedStyle(document.querySelector('.over')).clipPath")
        expect("inset" in clip, f"the left sample is not cut: {clip}")
        shown = "document.querySelector('.under').src"
        other = "[...document.querySelectorAll('.grid button')].find(b => b.getAttribute('aria-pressed') === 'false')"
        one = browser.ask(shown)
        browser.ask(f"{other}.click()")
        expect(browser.ask(shown) != one, "a click on the grid shows no other sample")
    browser.ask("for (const details of document.querySelectorAll('details')) details.open = true")
    browser.size(*PHONE, mobile=True)
    width = browser.ask("document.documentElement.scrollWidth")
    expect(width <= PHONE[0], f"it is {width} pixels wide on a phone of {PHONE[0]}")
    return faults + browser.complaints()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("page", type=Path)
    arguments.add_argument("--pictures", type=Path, help="a folder for screenshots")
    given = arguments.parse_args()
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        sys.exit("there is no Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            faults = check(browser, given.page.resolve())
            if given.pictures:
                given.pictures.mkdir(parents=True, exist_ok=True)
                for name, size, scheme in [("light", DESK, "light"), ("dark", DESK, "dark"), ("phone", PHONE, "light")]:
                    features = [{"name": "prefers-color-scheme", "value": scheme}]
                    browser.call("Emulation.setEmulatedMedia", features=features)
                    browser.size(*size, mobile=name == "phone")
                    browser.open(given.page.resolve())
                    browser.ask("document.querySelector('details.card')?.setAttribute('open', '')")
                    browser.photograph(given.pictures / f"{name}.png")
        finally:
            browser.process.kill()
            browser.process.wait()
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
