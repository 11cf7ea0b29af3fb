"""Write the locks of the images anew: `pip install uv`, then `python deploy/requirements/lock.py`.

receiver.txt and worker.txt are what each image installs, with the digests that the index gives; torch.txt is PyTorch
with CUDA, apart because a build for the CPU takes it from another index; build.txt is what builds our own wheel.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PYPROJECT = HERE.parents[1] / "pyproject.toml"
PLATFORM = ("--python-version=3.11", "--python-platform=x86_64-unknown-linux-gnu")
OF_TORCH = re.compile(r"(torch|triton|nvidia-|cuda-)")


def locked(*arguments: str, given: str | None = None) -> list[str]:
    """One entry for each package: its version and the digests of its files."""
    command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate", *PLATFORM]
    done = subprocess.run([*command, *arguments], input=given, capture_output=True, text=True, check=True)
    return re.split(r"\n(?=[a-z0-9])", done.stdout.strip())


def write(name: str, entries: list[str]) -> None:
    (HERE / name).write_text("# Written by lock.py.\n" + "\n".join(entries) + "\n")


worker = locked(str(PYPROJECT), "--extra=worker", "--extra=oidc")
write("receiver.txt", locked(str(PYPROJECT), "--extra=oidc"))
write("worker.txt", [entry for entry in worker if not OF_TORCH.match(entry)])
write("torch.txt", [entry for entry in worker if OF_TORCH.match(entry)])
write("build.txt", locked("-", given="hatchling>=1.27"))
