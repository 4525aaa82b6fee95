"""The ways in which an attempt ends without an adapter, each with its exit code.

Every message is one sentence for the user: what, the value, the limit, the remedy. Bugs are not here: they are ordinary
exceptions, and become UNEXPECTED_ERROR.

    TrainerError
    +-- InvalidSpec             10
    +-- DatasetNotFound         11
    +-- DatasetInvalid          12
    +-- BaseModelNotFound       13
    +-- BaseModelInvalid        14
    +-- AccessDenied            15
    +-- BucketNotFound          16
    +-- GateMissed              17
    +-- LossNotFinite           18
    +-- AdapterUnchanged        19
    +-- CudaOutOfMemory         20
    +-- StorageUnavailable      40
    +-- GpuNotFound             42
    Interrupted (BaseException) 41
"""

from __future__ import annotations

from typing import ClassVar

from loraline_api.outcome import ExitCode


class TrainerError(Exception):
    """An end that the user is told about in one sentence."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED_ERROR


class InvalidSpec(TrainerError):
    """A field of the recipe that only the model or the data can show to be wrong."""

    exit_code = ExitCode.INVALID_SPEC


class DatasetNotFound(TrainerError):
    """A dataset does not exist."""

    exit_code = ExitCode.DATASET_NOT_FOUND


class DatasetInvalid(TrainerError):
    """A dataset is there, but nothing can be learned from it as it is."""

    exit_code = ExitCode.DATASET_INVALID


class BaseModelNotFound(TrainerError):
    """The base model does not exist."""

    exit_code = ExitCode.BASE_MODEL_NOT_FOUND


class BaseModelInvalid(TrainerError):
    """The base model is there, but it is no causal language model in safetensors."""

    exit_code = ExitCode.BASE_MODEL_INVALID


class AccessDenied(TrainerError):
    """Credentials are missing, wrong, or do not reach far enough."""

    exit_code = ExitCode.ACCESS_DENIED


class BucketNotFound(TrainerError):
    """A bucket does not exist."""

    exit_code = ExitCode.BUCKET_NOT_FOUND


class GateMissed(TrainerError):
    """A metric misses its limit, so nothing is published."""

    exit_code = ExitCode.EVAL_BELOW_THRESHOLD


class LossNotFinite(TrainerError):
    """The loss, a gradient or a weight became NaN or infinite."""

    exit_code = ExitCode.LOSS_NOT_FINITE


class AdapterUnchanged(TrainerError):
    """Training moved nothing."""

    exit_code = ExitCode.ADAPTER_UNCHANGED


class CudaOutOfMemory(TrainerError):
    """The GPU's memory did not suffice."""

    exit_code = ExitCode.CUDA_OUT_OF_MEMORY


class StorageUnavailable(TrainerError):
    """A storage or model hub did not answer for as long as it was asked; a later attempt may fare better."""

    exit_code = ExitCode.STORAGE_UNAVAILABLE


class GpuNotFound(TrainerError):
    """The pod was given a GPU that CUDA does not see; another node may fare better."""

    exit_code = ExitCode.GPU_NOT_FOUND


class Interrupted(BaseException):
    """SIGTERM came. No Exception, so that no library on the way takes it for a failure of its own."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERRUPTED
