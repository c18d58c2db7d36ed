"""The frameworks whose exports are tested: an environment of its own for each, and what its script makes there.

`python tests/exports/environments.py FOLDER` makes everything in FOLDER, which GRAPHCOMPRESS_EXPORTS can name afterwards: environments and exports that are
there and up to date are used again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


class NoEnvironment(Exception):
    """The packages cannot be installed here."""


@dataclass(frozen=True)
class Framework:
    """Packages, the script that is run with them, the exports that it is asked for."""

    packages: tuple[str, ...]
    exports: tuple[str, ...]
    required: bool  # in CI

    def digest(self, *files: Path) -> str:
        """Of what an environment, or with `files` what the exports, are made from."""
        parts = [repr(self).encode(), sys.version.encode(), *(file.read_bytes() for file in files)]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


# One version of each: the exporters change what they write from release to release. PyTorch's is one that has a build without CUDA, which is some GB smaller.
FRAMEWORKS = {
    "torch": Framework(
        ("torch==2.13.0", "transformers==5.24.0", "onnx==1.23.2", "onnxscript==0.7.2"),
        (
            "bert_script",
            "bert_dynamo",
            "gpt2_script",
            "gpt2_cache_script",
            "t5_encoder_script",
            "llama_script",
            "llama_dynamo",
            "distilbert_dynamo",
            "vit_script",
            "lstm_script",
            "gru_dynamo",
            "loop_script",
            "half_dynamo",
            "resnet_script",
            "resnet_dynamo",
            "mobilenet_script",
            "mobilenet_dynamo",
            "unet_script",
            "detector_script",
            "detector_dynamo",
            "sound_script",
        ),
        required=True,
    ),
    "keras": Framework(
        ("tensorflow-cpu==2.21.0", "tf2onnx==1.17.0", "onnx==1.23.2"),
        ("separable_keras", "classifier_keras", "recurrent_keras", "attention_keras", "autoencoder_keras"),
        required=False,
    ),
    "sklearn": Framework(
        ("scikit-learn==1.9.1", "skl2onnx==1.20.0", "onnx==1.23.2"),
        (
            "mlp_sklearn",
            "forest_sklearn",
            "boosting_sklearn",
            "polynomial_svm_sklearn",
            "neighbours_sklearn",
            "text_sklearn",
            "columns_sklearn",
        ),
        required=True,
    ),
}


def interpreter(folder: Path, name: str) -> Path:
    """Python with the packages of framework `name`, in an environment in `folder`. Raises NoEnvironment where they cannot be installed."""
    framework = FRAMEWORKS[name]
    place = folder / f"{name}.environment"
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = place / "complete"
    if stamp.exists() and stamp.read_text() == framework.digest():
        return python
    venv.create(place, clear=True, with_pip=True)
    # Byte code is made for what is imported, not for all that is installed.
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", *framework.packages]
    process = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if process.returncode:
        raise NoEnvironment(f"{', '.join(framework.packages)} cannot be installed: {process.stderr.strip()[-1000:]}")
    stamp.write_text(framework.digest())
    return python


def exports(folder: Path, name: str) -> Path:
    """The folder with NAME.onnx, NAME.feeds and NAME.second for each export of framework `name`; raises as `interpreter` does."""
    framework = FRAMEWORKS[name]
    place = folder / name
    stamp, digest = place / "complete", framework.digest(SCRIPTS / "saving.py", *sorted(SCRIPTS.glob(f"*{name}*.py")))
    if stamp.exists() and stamp.read_text() == digest:
        return place
    write(folder, name, place, framework.exports)
    stamp.write_text(digest)
    return place


def write(folder: Path, name: str, place: Path, names: Sequence[str]) -> None:
    """Let the script of framework `name` write the exports `names` into `place`. Raises NoEnvironment, or RuntimeError where the script fails."""
    script = SCRIPTS / f"make_{name}.py"
    process = subprocess.run([str(interpreter(folder, name)), str(script), str(place), *names], env=_environment(), capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{script.name} ended with status {process.returncode}: {process.stdout[-500:]}{process.stderr[-3000:]}")


def all_exports(folder: Path) -> dict[str, Path | Exception]:
    """For each framework its folder of exports, or what hinders; two at a time, for installing keeps one core busy."""

    def attempt(name: str) -> Path | Exception:
        try:
            return exports(folder, name)
        except (NoEnvironment, RuntimeError, OSError, subprocess.SubprocessError) as problem:
            return problem

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FRAMEWORKS, pool.map(attempt, FRAMEWORKS), strict=True))


def _environment() -> dict[str, str]:
    """This process's, without what would leak packages of this interpreter into the other."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")}


if __name__ == "__main__":
    for framework, result in all_exports(Path(sys.argv[1]).resolve()).items():
        print(f"{framework}: {result}")
