"""Command line of the simulator: `python -m kdlib.simulate --help`."""

import argparse
from fractions import Fraction
from pathlib import Path

from kdlib.simulate import clips, dataset, restore
from kdlib.simulate.recipe import kitti_alone
from kdlib.simulate.style import WORLDS

PRESETS = {"pinned": dataset.PINNED, "smoke": dataset.SMOKE}


def size(text: str) -> tuple[int, int]:
    """Parse HxW."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()) or int(height) % 2 or int(width) % 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW with even numbers, as 144x256")
    return int(height), int(width)


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(prog="python -m kdlib.simulate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="render a whole data set")
    data.add_argument("--out", type=Path, default=Path("data"))
    data.add_argument("--preset", choices=PRESETS, default="pinned")
    data.add_argument("--workers", type=int, help="processes; default: one per core")
    more = commands.add_parser("clips", help="render any number of further clips")
    more.add_argument("--out", type=Path, required=True)
    more.add_argument("--world", choices=WORLDS, default="home")
    more.add_argument("--count", type=int, required=True)
    more.add_argument("--first-seed", type=int, default=0)
    more.add_argument("--frames", type=int, default=20)
    more.add_argument("--fps", type=Fraction, default=Fraction(2))
    more.add_argument("--size", type=size, default=(144, 256), metavar="HxW")
    more.add_argument("--labels", action="store_true", help="write every frame's mask as well")
    more.add_argument("--workers", type=int, help="processes; default: one per core")
    boxes = commands.add_parser("kitti", help="render any number of stills in KITTI's layout")
    boxes.add_argument("--out", type=Path, required=True)
    boxes.add_argument("--train", type=int, required=True)
    boxes.add_argument("--val", type=int, required=True)
    boxes.add_argument("--workers", type=int, help="processes; default: one per core")
    back = commands.add_parser("restore", help="make data/ hold the pinned bytes")
    back.add_argument("--pin", type=Path, default=Path("data.dvc"))
    back.add_argument("--workers", type=int, help="processes; default: one per core")
    pin = commands.add_parser("manifest", help="list the pinned files' hashes beside data.dvc")
    pin.add_argument("--data", type=Path, default=Path("data"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    chosen = build_parser().parse_args(arguments)
    match chosen.command:
        case "data":
            dataset.make(PRESETS[chosen.preset], chosen.out, chosen.workers)
        case "clips":
            clips.make(chosen)
        case "kitti":
            recipe = kitti_alone(chosen.train, chosen.val)
            dataset.make(recipe, chosen.out, chosen.workers)
        case "manifest":
            restore.write_manifest(chosen.data)
        case "restore":
            return restore.restore(chosen.pin, chosen.workers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
