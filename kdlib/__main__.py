"""The command line: ``python -m kdlib``, or ``kdlib`` where it is installed.

kdlib data check bdd100k data/bdd100k       audit a data tree; exit code 1 when it has errors
kdlib frames data/bdd100k out --rate 5.0    clip videos of a BDD100K tree into shards
kdlib run funmatch-seg-matching --seed 1    make one run of params.yaml and write its record
torchrun --nproc-per-node 8 -m kdlib run funmatch-seg-matching --scale paper    on eight GPUs
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 fine, 1 faults found or an error, 2 wrong use.

    What kdlib raises itself names the file, the cause and the cure, and is printed without a
    traceback.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        # torch raises RuntimeError too: there the traceback is what helps
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("kdlib."):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from kdlib.data.layouts import LAYOUTS

    parser = argparse.ArgumentParser("kdlib", description="knowledge distillation, driving scenes")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="look after data trees")
    check = data.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "check", help="name every missing, truncated, mis-sized or wrongly coded file of a tree"
    )
    check.add_argument("layout", help=", ".join(LAYOUTS))
    check.add_argument("root", type=Path, help="folder of the tree")
    check.add_argument("--size", type=_size, help="HEIGHTxWIDTH that every image must have")
    check.add_argument("--full", action="store_true", help="decode every video wholly")
    check.add_argument("--workers", type=int, help="threads; default one a core")
    check.set_defaults(run=_check)

    frames = commands.add_parser("frames", help="videos of a BDD100K tree -> shards of frames")
    frames.add_argument("root", type=Path, help="folder of the tree")
    frames.add_argument("out", type=Path, help="folder of the shards and the manifest")
    frames.add_argument("--splits", nargs="+", default=["train"], help="video splits (train)")
    pace = frames.add_mutually_exclusive_group(required=True)
    pace.add_argument("--rate", type=float, help="frames a second")
    pace.add_argument("--stride", type=int, help="every k-th frame")
    frames.add_argument("--size", type=_size, help="HEIGHTxWIDTH stored; default as decoded")
    frames.add_argument("--quality", type=int, default=90, help="JPEG quality (90)")
    frames.add_argument("--heldout", type=int, default=0, help="clips held out (0)")
    frames.add_argument(
        "--duplicates", type=float, default=0.0, help="grey difference under which to drop (0)"
    )
    frames.add_argument("--per-shard", type=int, default=4096, help="frames a shard (4096)")
    frames.add_argument("--seed", type=int, default=0, help="seed of every draw (0)")
    frames.add_argument("--workers", type=int, help="processes; default one a core")
    frames.set_defaults(run=_frames)

    run = commands.add_parser("run", help="make one run of params.yaml, as its notebook does")
    run.add_argument("name", help="a run of params.yaml")
    run.add_argument("--scale", help="smoke, sample, gpu, paper; default that of params.yaml")
    run.add_argument("--seed", type=int, default=0, help="seed (0)")
    run.set_defaults(run=_run)
    return parser


def _check(options: argparse.Namespace) -> int:
    from kdlib.data import check

    audit = check.check(
        options.layout,
        options.root,
        size=options.size,
        full=options.full,
        workers=options.workers,
    )
    print(check.report(audit))
    return 1 if audit.errors else 0


def _frames(options: argparse.Namespace) -> int:
    from kdlib.data.frames import extract
    from kdlib.data.layouts import bdd100k

    manifest = extract(
        [video for split in options.splits for video in bdd100k.videos(options.root, split)],
        options.out,
        drop_ids=bdd100k.evaluation_ids(options.root),
        heldout=options.heldout,
        stride=options.stride,
        rate=options.rate,
        size=options.size,
        quality=options.quality,
        frames_per_shard=options.per_shard,
        duplicate_threshold=options.duplicates,
        seed=options.seed,
        workers=options.workers,
    )
    print(manifest)
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, say 720x1280") from None
    return height, width


def _run(options: argparse.Namespace) -> int:
    from kdlib import config, experiment, runtime
    from kdlib.report.provenance import provenance
    from kdlib.report.records import write_record

    started = time.time()
    run = config.load_run(options.name, scale=options.scale, seed=options.seed)
    root = config.repository()

    def keep(facts: dict) -> None:
        if runtime.is_first():
            origin = provenance(root, data_hash=facts["data_hash"], started=started)
            print(write_record(root / run.record, origin | facts))

    experiment.make(run, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
