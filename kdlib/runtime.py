"""Device, precision, seeds and distribution, decided once per process.

Lightning Fabric moves modules and tensors and talks between processes; the same code runs alone in
a notebook, under `torchrun`, on a CPU and on several GPUs.
"""

import hashlib
import logging
import os
import platform
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric

Precision = Literal["auto", "float32", "bf16"]


def fabric(precision: Precision = "auto") -> Fabric:
    """A launched Fabric for this process.

    Under torchrun (WORLD_SIZE is set) every process joins the group, with NCCL on GPUs and gloo on
    CPUs. Otherwise one device is used: the first GPU, or the CPU. torch is set to deterministic
    algorithms: same commit, data and device give the same bits.
    """
    for room in ("fabric", "pytorch"):  # whichever was imported last tells, in red, what it uses
        logging.getLogger(f"lightning.{room}").setLevel(logging.WARNING)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    made = Fabric(
        accelerator=accelerator,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else 1,
        num_nodes=world // int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else 1,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if _bf16(precision, accelerator) else "32-true",
    )
    made.launch()
    return made


def is_first() -> bool:
    """Whether this process is the one that writes files for all of its group."""
    return int(os.environ.get("RANK", "0")) == 0


def _bf16(precision: Precision, accelerator: str) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported()
    # A CPU without bf16 units (AMX tiles or AVX-512 BF16) gains too little to pay for the casts.
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def seed_for(seed: int, *words: str | int) -> int:
    """A 63-bit seed for one purpose, from the run's seed and words that name the purpose.

    Independent streams: the augmentation of step 7 does not depend on how many numbers step 6 drew,
    which is what lets a resumed run go on with the same bits.
    """
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *words: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see `seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, *words))


def device_name(device: torch.device) -> str:
    """The device's make, for records: the GPU's name, or what makes a processor's bits its own.

    Of a processor these are model, caches, vector instructions and number of threads, for by them
    the matrix kernels choose the order of their sums. A virtual machine's "model name" can stand
    for several generations, so family and model number are told as well.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        pairs = (line.partition(":") for line in text.splitlines())
        facts = {name.strip(): value.strip() for name, _, value in pairs}
    except OSError:
        pass  # not Linux
    parts = [facts.get("model name", platform.machine() or "CPU")]
    if "cpu family" in facts:
        parts.append(f"family {facts['cpu family']} model {facts.get('model', '?')}")
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    if caches:
        parts.append("caches " + " ".join(path.read_text().strip() for path in caches))
    parts += [torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
    return ", ".join(parts)
