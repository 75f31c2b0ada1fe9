"""The table of what a GPU does for us and for PyTorch, made in one call on one machine.

    python benches/gpu/table.py PROGRAM [--only recipe,forward,...] [--json FOLDER]
    python benches/gpu/table.py PROGRAM --profile [profile-of-4]

PROGRAM is what `cargo bench --features cuda --package sd3pipe-stages --bench gpu --no-run` built. Each side runs in processes of its own,
one after the other, so that each has the whole card; what a section breaks is tried once more alone. The table is on standard output,
all else on the other. A floor is what the counted operations take at the rate of the best product of 8192³ in the same call, or the counted
bytes at that of the best copy, whichever is longer; a share is the floor over our time. Memory is the most that the side's allocator held of
the card. `--profile` prints what the kernels of one step of the recipe take, over one picture or four."""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

# In the order in which both sides run them.
SECTIONS = ["checks", "ceiling", "products", "attention", "text", "vae", "forward", "backward", "recipe", "step", "sample", "compiled"]
OURS_ALONE, THEIRS_ALONE = ["checks"], ["compiled"]

# A section's slowest row, with kernels to compile, stays far below this.
SECONDS = 480

# Where PyTorch has a row that we have no like of, and which of ours stands beside it.
BESIDE = {"step, 8-bit AdamW, compiled": "step, 8-bit AdamW"}


class Side:
    """What a program said of its sections."""

    def __init__(self, name, command):
        self.name, self.command = name, command
        self.rows, self.about, self.lines = {}, {}, []

    def run(self, sections):
        alone = []
        while sections:
            done, broken = self.attempt(sections)
            rest = [section for section in sections if section not in done]
            if rest:
                # It ended in the first of them; the others have not begun.
                broken.add(rest[0])
            if len(sections) > 1:
                alone += [section for section in sections if section in broken]
            sections = rest[1:]
        for section in alone:
            self.attempt([section])

    def attempt(self, sections):
        """Runs sections in one process; gives those that came to their end and those with a row that failed."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lines"
            path.touch()
            try:
                code = subprocess.run([*self.command, "--json", path, *sections], stdout=sys.stderr, timeout=SECONDS).returncode
                ended = f"the process ended with {code}"
            except subprocess.TimeoutExpired:
                ended = f"the process was stopped after {SECONDS} s"
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.lines += lines
        done, broken = [], set()
        for line in lines:
            if line.get("done"):
                done.append(line["section"])
            elif "row" in line:
                self.rows[line["row"]] = line
                if "error" in line:
                    broken.add(line["section"])
            else:
                self.about = line
        unfinished = [section for section in sections if section not in done]
        if unfinished:
            print(f"{self.name}: {unfinished[0]}: {ended}", file=sys.stderr)
            self.rows[unfinished[0]] = dict(section=unfinished[0], row=unfinished[0], error=ended)
        elif not broken:
            # What a first run said of a section as a whole no longer holds.
            for section in sections:
                self.rows.pop(section, None)
        return done, broken


def rate(sides, row, what):
    """The best of both sides in what they counted a second, which only ours says."""
    ours, times = sides[0].rows.get(row, {}), [side.rows.get(row, {}).get("median") for side in sides]
    times = [time for time in times if time]
    return ours[what] / min(times) if what in ours and times else None


def milliseconds(seconds):
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def figures(row):
    if "median" not in row:
        return row.get("error", "–").replace("|", "/")[:100]
    held = f", {row['held'] / 2**30:.1f} GiB" if row["held"] else ""
    return f"{milliseconds(row['median'])} ms{held}"


def table(ours, peers):
    ceilings = [rate([ours, peers], "8192×8192×8192", "operations"), rate([ours, peers], "copy of 2 GiB", "bytes")]
    rows = peers.rows | ours.rows
    sections = {name: SECTIONS.index(row["section"]) for name, row in rows.items() if row["section"] not in OURS_ALONE}
    out = ["| | floor | PyTorch | here | here / PyTorch | share of the floor |", "|---|---|---|---|---|---|"]
    for name in sorted(sections, key=sections.get):
        theirs, own = peers.rows.get(name, {}), ours.rows.get(BESIDE.get(name, name), {})
        least = zip([own.get("operations"), own.get("bytes")], ceilings)
        floor = max([count / ceiling for count, ceiling in least if count and ceiling], default=None)
        times = own.get("median"), theirs.get("median")
        ratio = f"{times[0] / times[1]:.2f}" if all(times) else "–"
        share = f"{100 * floor / times[0]:.0f} %" if floor and times[0] else "–"
        said = f"{milliseconds(floor)} ms" if floor else "–"
        out.append(f"| {name} | {said} | {figures(theirs)} | {figures(own)} | {ratio} | {share} |")
    operations, copied = ceilings
    if operations and copied:
        out += ["", f"Ceilings: {operations / 1e12:.0f} TFLOP/s, {copied / 1e9:.0f} GB/s."]
    checks = [row for row in ours.rows.values() if row["section"] == "checks"]
    failed = [f"{row['row']}: {row['error']}" for row in checks if "error" in row]
    if checks:
        out += ["", f"{len(checks) - len(failed)} of {len(checks)} checks of kernels against f32 hold.", *(f"- {row}" for row in failed)]
    versions = [f"{name} {version}" for name, version in peers.about.get("versions", {}).items()]
    return "\n".join([", ".join([peers.about.get("device", ""), *versions]), "", *out])


UNITS = {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}
KERNEL = re.compile(r"\| (?P<name>.*\S) +\| (?P<time>[\d.]+)(?P<unit>ns|µs|ms|s) +\| (?P<count>\d+) +\| \d+ % +\|\s*$")


def kernels(log):
    """Milliseconds, launches and kinds by kernel, of the last table in CubeCL's log: kernels that were generated differ by a hash."""
    tables = []
    for line in log:
        if re.match(r"\| Name +\| Duration", line):
            tables.append([])
        elif tables and (found := KERNEL.match(line)) and found["name"] != "Total":
            tables[-1].append(found)
    families = collections.defaultdict(lambda: [0.0, 0, 0])
    for kernel in tables[-1] if tables else []:
        family = families[re.sub(r"_[0-9a-f]{8}$", "", kernel["name"])]
        family[0] += float(kernel["time"]) * UNITS[kernel["unit"]]
        family[1] += int(kernel["count"])
        family[2] += 1
    return families


def profile(program, section):
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log"
        settings = dict(CUBECL_DEBUG_LOG=str(log), CUBECL_DEBUG_OPTION="profile")
        done = subprocess.run([program, section], env=os.environ | settings, stdout=sys.stderr, timeout=SECONDS)
        with open(log, encoding="utf-8", errors="replace") as lines:
            families = kernels(lines)
    if done.returncode or not families:
        sys.exit(f"the program ended with {done.returncode} and {len(families)} kernels in its log")
    total, launches = (sum(family[part] for family in families.values()) for part in (0, 1))
    print("| kernel | ms | share | launches | kinds |\n|---|---|---|---|---|")
    for name, (time, count, kinds) in sorted(families.items(), key=lambda item: -item[1][0]):
        print(f"| {name.replace('|', '/')} | {time:.2f} | {100 * time / total:.1f} % | {count} | {kinds} |")
    print(f"| all | {total:.2f} | 100 % | {launches} | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--only", help="of " + ",".join(SECTIONS))
    parser.add_argument("--json", type=pathlib.Path, metavar="FOLDER", help="where to keep all figures, a file of JSON lines for each side")
    parser.add_argument("--profile", nargs="?", const="profile", metavar="SECTION")
    parser.add_argument("--peers", default="", help="what to tell peers.py, such as `--device cpu --tiny`")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    if arguments.profile:
        return profile(program, arguments.profile)
    wanted = arguments.only.split(",") if arguments.only else SECTIONS
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    sections = [section for section in SECTIONS if section in wanted or section == "ceiling"]
    peers = Side("PyTorch", [sys.executable, HERE / "peers.py", *arguments.peers.split()])
    peers.run([section for section in sections if section not in OURS_ALONE])
    ours = Side("here", [program])
    # Each in a process of its own: burn's pools keep what a section before has left.
    for section in sections:
        if section not in THEIRS_ALONE:
            ours.run([section])
    if arguments.json:
        arguments.json.mkdir(parents=True, exist_ok=True)
        for side, name in [(peers, "peers"), (ours, "ours")]:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in side.lines)
            (arguments.json / f"{name}.jsonl").write_text(text, encoding="utf-8")
    print(table(ours, peers))


if __name__ == "__main__":
    main()
