"""Command line of `kdlib.notebook`; see the package's docstring."""

import argparse
import sys
from pathlib import Path

from kdlib.config import ConfigError
from kdlib.notebook import NotebookError, root_of


def main(arguments: list[str] | None = None) -> int:
    """Parse and act; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.act(options)
    except (NotebookError, ConfigError) as error:
        print(f"kdlib.notebook: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdlib.notebook", description=__doc__)
    actions = parser.add_subparsers(required=True)

    run = actions.add_parser("run", help="execute a notebook with parameters")
    run.add_argument("text", type=Path, help="notebooks/py/<paper>/<n>_<section>.py")
    run.add_argument("--run", help="name of a run in params.yaml")
    run.add_argument("--scale", help="smoke, sample, gpu or paper")
    run.add_argument("--seed", type=int)
    run.set_defaults(act=_run)

    helps = {
        "sync": "write notebooks from their texts, keeping stored outputs",
        "store": "run at the default parameters and store the checked cells' outputs",
        "check": "say what is wrong with texts and notebooks",
    }
    for name, act in (("sync", _sync), ("store", _store), ("check", _check)):
        action = actions.add_parser(name, help=helps[name])
        action.add_argument("texts", type=Path, nargs="*", help="default: all")
        action.set_defaults(act=act)

    deps = actions.add_parser("deps", help="kdlib modules behind a text")
    deps.add_argument("text", type=Path)
    deps.set_defaults(act=_deps)

    code = actions.add_parser("code", help="hashes of the kdlib modules behind each text")
    code.add_argument("texts", type=Path, nargs="+", help="folders of texts, or texts")
    code.add_argument("--out", type=Path, required=True)
    code.set_defaults(act=_code)

    inputs = actions.add_parser("inputs", help="settings and data hashes of runs")
    inputs.add_argument("runs", nargs="+", help="names of runs; * stands for anything")
    inputs.add_argument("--scale", required=True)
    inputs.add_argument("--out", type=Path, required=True)
    inputs.set_defaults(act=_inputs)
    return parser


def _run(options: argparse.Namespace) -> int:
    # Notebooks are checked by jsonschema, which builds a grammar of web addresses where it finds
    # this package: a second of every stage, for a format that no notebook has.
    sys.modules.setdefault("rfc3987_syntax", None)
    from kdlib.notebook import launch

    names = ("run", "scale", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return launch.run(options.text, given)


def _texts(options: argparse.Namespace) -> tuple[Path, list[Path]]:
    from kdlib.notebook import pairs

    root = root_of(options.texts[0] if options.texts else Path.cwd())
    return root, options.texts or pairs.texts(root)


def _sync(options: argparse.Namespace) -> int:
    from kdlib.notebook import pairs

    root, texts = _texts(options)
    for text in texts:
        print(f"{'written' if pairs.sync(text, root) else 'unchanged'}: {text}")
    return 0


def _store(options: argparse.Namespace) -> int:
    from kdlib.notebook import store

    root, texts = _texts(options)
    for text in texts:
        print(f"running: {text}", flush=True)
        store.store(text, root)
    return 0


def _check(options: argparse.Namespace) -> int:
    from kdlib.notebook import pairs

    root, texts = _texts(options)
    found = [problem for text in texts for problem in pairs.problems(text, root)]
    print("\n".join(found) if found else f"{len(texts)} notebooks: nothing wrong")
    return 1 if found else 0


def _deps(options: argparse.Namespace) -> int:
    from kdlib.notebook import imports

    text = options.text.resolve()
    print("\n".join(imports.closure(text, root_of(text))))
    return 0


def _code(options: argparse.Namespace) -> int:
    from kdlib.notebook import imports

    texts = [text.resolve() for text in options.texts]
    written = imports.write(texts, options.out, root_of(texts[0]))
    print(f"{len(written)} texts: {options.out}")
    return 0


def _inputs(options: argparse.Namespace) -> int:
    from kdlib.notebook import inputs

    written = inputs.write(options.runs, options.scale, options.out, root_of(Path.cwd()))
    print(f"{len(written)} runs: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
