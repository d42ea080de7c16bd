"""A piece of a test in two processes of one group, on one machine, over gloo."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT_S = 240


def in_two(folder: Path, body: str) -> None:
    """Run `body`, lines of Python that may import kdlib and the tests, in two processes at once.

    Fails with what they printed if one of them fails. The script is written to `folder`.
    """
    script = folder / "two_processes.py"
    paths = [str(HERE.parent), str(HERE)]
    head = f"import sys\nsys.path[:0] = {paths!r}\nimport torch\ntorch.set_num_threads(1)\n"
    script.write_text(head + textwrap.dedent(body), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(_free_port()), str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
