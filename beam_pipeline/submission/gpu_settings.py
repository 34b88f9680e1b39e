"""Settings of Dataflow for each type of GPU: ``python -m beam_pipeline dataflow-flags``.

    accelerator        machine           GPU GB   RAM GB   threads   what it is for
    nvidia-tesla-t4    n1-standard-8         16       30         8   2B in float16; no bfloat16
    nvidia-l4          g2-standard-16        24       64         8   2B and 7B; the cheapest image
    nvidia-tesla-a100  a2-highgpu-1g         40       85        12   7B with large micro-batches
    nvidia-a100-80gb   a2-ultragpu-1g        80      170        12   as above, larger images
    nvidia-h100-80gb   a3-highgpu-1g         80      234        16   fastest; scarce

One SDK process a machine (``no_use_multiple_sdk_containers``): every process loads its own model. The
threads of that process each work on a chunk, so that the next one is fetched while the GPU computes.
No module of Beam is needed to answer.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from beam_pipeline.options import Parser
from schemas.errors import ConfigurationError


@dataclass(frozen=True)
class GpuSettings:
    """How workers with one type of GPU are set up.

    Attributes:
        accelerator: Dataflow's name of the GPU.
        machine_type: A machine with one of them.
        ram_gb: Memory of that machine.
        harness_threads: Threads of the one SDK process.
        disk_gb: Boot disk: the image with its base weights is tens of GB, and is unpacked there.
        max_workers: Most workers, unless told otherwise; not more than the quota of GPUs.
    """

    accelerator: str
    machine_type: str
    ram_gb: int
    harness_threads: int
    disk_gb: int = 200
    max_workers: int = 8

    @property
    def _attached(self) -> str:
        return f"type:{self.accelerator};count:1"

    def flags(self, *, right_fitting: bool = False) -> list[str]:
        """Give the options of the Dataflow runner.

        Args:
            right_fitting: Leave the GPU out: the hinted stages bring it (``hints``), the others do without.
        """
        workers = [
            f"--machine_type={self.machine_type}",
            f"--dataflow_service_options=worker_accelerator={self._attached};install-nvidia-driver",
        ]
        process = [
            f"--disk_size_gb={self.disk_gb}",
            f"--number_of_worker_harness_threads={self.harness_threads}",
            "--experiments=no_use_multiple_sdk_containers",
            "--sdk_location=container",
            f"--max_num_workers={self.max_workers}",
        ]
        return process if right_fitting else workers + process

    def hints(self) -> dict[str, str]:
        """Resource hints of the stages that need the GPU; never together with ``flags``."""
        return {
            "accelerator": f"{self._attached};machine_type:{self.machine_type};install-nvidia-driver",
            # Below the machine's memory, as a part of it is the system's.
            "min_ram": f"{self.ram_gb * 3 // 4}GB",
        }


_SETTINGS = {
    settings.accelerator: settings
    for settings in (
        GpuSettings("nvidia-tesla-t4", "n1-standard-8", ram_gb=30, harness_threads=8),
        GpuSettings("nvidia-l4", "g2-standard-16", ram_gb=64, harness_threads=8),
        GpuSettings("nvidia-tesla-a100", "a2-highgpu-1g", ram_gb=85, harness_threads=12),
        GpuSettings("nvidia-a100-80gb", "a2-ultragpu-1g", ram_gb=170, harness_threads=12),
        GpuSettings("nvidia-h100-80gb", "a3-highgpu-1g", ram_gb=234, harness_threads=16),
    )
}
GPUS = tuple(_SETTINGS)
"""Types of GPU that are known here."""


def gpu_settings(accelerator: str) -> GpuSettings:
    """Give the settings for a type of GPU.

    Raises:
        ConfigurationError: There are none.
    """
    if accelerator not in _SETTINGS:
        raise ConfigurationError(f"--gpu {accelerator}: must be one of {', '.join(GPUS)}")
    return _SETTINGS[accelerator]


def resource_hints(accelerator: str | None) -> dict[str, str]:
    """Give the hints of the stages that a right-fitted job scores in; none where it is not asked for.

    For the composites that score and that write, both: a stage without them would run on other machines,
    and every scored chunk would travel there. Hints of a ``ModelHandler`` would reach its inner ParDo alone.
    """
    return {} if accelerator is None else gpu_settings(accelerator).hints()


def print_dataflow_flags(arguments: Sequence[str]) -> int:
    """Run ``dataflow-flags``: print options, quoted for a shell, to be pasted behind a scoring command."""
    parser = Parser(
        prog="python -m beam_pipeline dataflow-flags",
        description="Print the options of the Dataflow runner that suit a type of GPU.",
    )
    parser.add_argument("--gpu", required=True, metavar="TYPE", help=f"one of {', '.join(GPUS)}")
    parser.add_argument("--region", metavar="REGION", help="where the workers are")
    parser.add_argument("--image", metavar="IMAGE", help="container image (see deploy/Dockerfile)")
    parser.add_argument("--max-workers", type=int, metavar="WORKERS", help="default: by the type")
    parser.add_argument(
        "--right-fitting",
        action="store_true",
        help="without the GPU itself: for --score-gpu, which gives it to the scoring stages alone",
    )
    given = parser.parse_args(list(arguments))
    settings = gpu_settings(given.gpu)
    if given.max_workers is not None:
        settings = replace(settings, max_workers=given.max_workers)
    flags = ["--runner=DataflowRunner"]
    flags += [f"--region={given.region}"] if given.region else []
    flags += [f"--sdk_container_image={given.image}"] if given.image else []
    flags += settings.flags(right_fitting=given.right_fitting)
    print(" \\\n  ".join(shlex.quote(flag) for flag in flags))
    return 0
