"""Writes the options of sd-scripts' two SD3 trainers, one a line: which trainer has it, its name, how many values it takes, its default.

    python tools/sd_scripts/options.py SD_SCRIPTS_REPOSITORY > tests/import/options.txt

A git folder will do. The functions that declare the options are run alone, with argparse, from the sources of the newest commit: nothing of
sd-scripts need be installed, and nothing else of it is run.
"""

import argparse
import ast
import builtins
import subprocess
import sys

# The files in which functions that declare options are looked for.
FILES = ["sd3_train.py", "sd3_train_network.py", "train_network.py"] + [
    f"library/{name}.py"
    for name in [
        "config_util",
        "custom_train_functions",
        "deepspeed_utils",
        "sai_model_spec",
        "sd3_train_utils",
        "train_util",
        "utils",
    ]
]


def git(repository, *arguments):
    return subprocess.run(["git", "-C", repository, *arguments], check=True, capture_output=True, text=True).stdout


class Names(dict):
    """The names that a module sees: what it defines, and for a type that isn't there `str`."""

    def __missing__(self, name):
        if hasattr(builtins, name):
            raise KeyError(name)
        return str


class Module:
    """The functions of a module that declare options, and its constants."""

    def __init__(self, source):
        self.names = Names(argparse=argparse)
        for node in ast.parse(source).body:
            declares = isinstance(node, ast.FunctionDef) and (node.name.startswith("add_") or node.name == "setup_parser")
            constant = isinstance(node, ast.Assign) and is_constant(node.value)
            if declares or constant:
                if declares:
                    node.returns = None
                    for argument in node.args.args:
                        argument.annotation = None
                exec(compile(ast.Module([node], []), "sd-scripts", "exec"), self.names)

    def __getattr__(self, name):
        return self.names[name]


def is_constant(value):
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


def values(action):
    if action.nargs == 0:
        return "0"
    return str(action.nargs or 1)


def main():
    repository = sys.argv[1]
    commit = git(repository, "rev-parse", "HEAD").strip()
    modules = {}
    for file in FILES:
        modules[file.removesuffix(".py").split("/")[-1]] = Module(git(repository, "show", f"{commit}:{file}"))
    for module in modules.values():
        module.names.update(modules)
        # `from library.utils import add_logging_arguments` and the like.
        for other in modules.values():
            for name, value in other.names.items():
                if name.startswith("add_"):
                    module.names.setdefault(name, value)
    found = {}
    for trainer in ["sd3_train", "sd3_train_network"]:
        for action in modules[trainer].setup_parser()._actions:
            if action.dest != "help":
                names = ",".join(name.removeprefix("--") for name in action.option_strings)
                found.setdefault((names, values(action), repr(action.default)), []).append(trainer)
    print(f"# The options of sd3_train.py and sd3_train_network.py of kohya-ss/sd-scripts, commit {commit}:")
    print("# trainer, name, values, default. Written by tools/sd_scripts/options.py.")
    for (names, count, default), trainers in sorted(found.items()):
        trainer = "both" if len(trainers) == 2 else {"sd3_train": "full", "sd3_train_network": "lora"}[trainers[0]]
        print(trainer, names, count, default)


if __name__ == "__main__":
    main()
