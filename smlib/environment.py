"""Environment variables by which accelerate, torch and transformers change what is computed, without a word.

None of them stands in a configuration, and so in no hash of a run. Each is dealt with in one of three ways:

* `PASSED`: the value is given explicitly by the code that it would change, so that the variable has no effect;
* `REFUSED`: training ends with an error that names the variable, since it would become another computation;
* `RECORDED`: it is one of the reasons why last digits differ between two machines. It stands in a result's provenance.

Variables that choose where files are kept, what is logged, or how a process is watched are left alone.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

PASSED: Mapping[str, str] = MappingProxyType(
    {
        "ACCELERATE_MIXED_PRECISION": "16-bit or 8-bit passes",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradients divided by a number of steps",
        "ACCELERATE_DYNAMO_BACKEND": "a compiled model",
        "ACCELERATE_DYNAMO_MODE": "how it is compiled",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "how it is compiled",
        "ACCELERATE_DYNAMO_USE_DYNAMIC": "how it is compiled",
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "how it is compiled",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "pickled code in checkpoints would be run",
    }
)
"""Variables without effect -> what they would change."""

SPLIT = "ACCELERATE_USE_FSDP"
"""Asks for FSDP; where there may be several processes it is answered by `smlib.training.sharding`."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        SPLIT: "the model would be split over processes",
        "ACCELERATE_USE_DEEPSPEED": "DeepSpeed would take the place of the optimiser",
        "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM would take the place of the model",
        "ACCELERATE_USE_PARALLELISM_CONFIG": "the model would be split over processes",
        "ACCELERATE_USE_SAGEMAKER": "training would be split over processes",
        "ACCELERATE_DOWNCAST_BF16": "weights would be rounded to 16 bits",
        "XLA_USE_BF16": "weights would be rounded to 16 bits",
        "XLA_DOWNCAST_BF16": "weights would be rounded to 16 bits",
        "ACCELERATE_BYPASS_DEVICE_MAP": "a model that is split over devices would be moved to one",
    }
)
"""Switches -> what would happen if they were on."""

PROCESSES = (
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "ACCELERATE_NUM_PROCESSES",
)
"""Numbers of processes that a launcher sets."""

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What `accelerate launch` and `torchrun` tell each of several processes; without one of them none finds the others."""

RECORDED = (
    # the device
    "ACCELERATE_USE_CPU",
    "ACCELERATE_TORCH_DEVICE",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    # instruction sets and kernels of the CPU
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "LD_PRELOAD",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DISABLE_FAST_MM",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    # kernels of the GPU
    "CUBLAS_WORKSPACE_CONFIG",
    "FLASH_ATTENTION_DETERMINISTIC",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_TUNABLEOP_ENABLED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DISABLED",
    # how transformers and torch choose among ways of computing the same
    "PYTORCH_JIT",
    "TORCH_COMPILE_DISABLE",
    "TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR",
    "TRANSFORMERS_SDPA_FORCE_GQA",
    "USE_HUB_KERNELS",
)
"""Variables that can change last digits."""

OFF = ("", "0", "false", "no", "off", "n", "f")


class RefusedEnvironmentError(RuntimeError):
    """An environment variable that would make a run into another one; the message names it."""


def check_environment(environment: Mapping[str, str] = os.environ, several: bool = False) -> None:
    """Whether a run in this environment is what its configuration says.

    Args:
        several: the run may be one of several processes, if a launcher started them.

    Raises:
        RefusedEnvironmentError: one of `REFUSED` is on, or one of `PROCESSES` counts more than one where there is to be
            one, or where none of `LAUNCHED` says how the others are found.
    """
    launched = several and all(environment.get(name) for name in LAUNCHED)
    for name, effect in REFUSED.items():
        if environment.get(name, "").lower() not in OFF and not (launched and name == SPLIT):
            raise RefusedEnvironmentError(
                f"the environment has {name}={environment[name]}, by which {effect}; training runs in one process on "
                f"one device, as its configuration says: `unset {name}`"
            )
    if launched:
        return
    for name in PROCESSES:
        count = environment.get(name, "")
        if count.strip() not in ("", "0", "1"):
            raise RefusedEnvironmentError(
                f"this runs in one process on one device, and the environment has {name}={count}: start it without "
                f"`accelerate launch`, `torchrun` or mpirun, or `unset {name}`"
                + (f". Several processes need {', '.join(LAUNCHED)}, which the first two set" if several else "")
            )


@contextmanager
def without(names: Iterable[str]) -> Iterator[None]:
    """Hides variables of the environment from what is made inside."""
    said = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(said)


def say_unheard(precision: str, environment: Mapping[str, str] = os.environ) -> None:
    """Warns whoever asked a launcher for another `precision` (no, bf16, fp16) than the run's own settings say."""
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in (*OFF, precision):
        warnings.warn(
            f"ACCELERATE_MIXED_PRECISION={asked} has no effect, since it would stand in no setting of the run: ask for "
            "it by bf16=True (smlib finetune: --bf16 true), or launch with --mixed_precision no",
            stacklevel=4,
        )


def recorded(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of `RECORDED` that are set."""
    return {name: environment[name] for name in RECORDED if environment.get(name)}
