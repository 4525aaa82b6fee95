"""The kind LoraFineTune: the recipe of an adapter. `finetune_status` is what its status tells.

`run.resolve` turns a recipe into the inputs of a run, whose hash is the run's id.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from loraline_api import storage
from loraline_api.compute import TrainingCompute
from loraline_api.model import ApiModel, Rule, by_rule

DATASET_URI = r"^(hf|s3|pvc|https|configmap)://[^/\s]+/[^\r\n]+$"
OUTPUT_URI = r"^s3://[^/\s]+(/[^\r\n]*)?$"

PROCESSES = "self.compute.nodes * (self.compute.gpus > 0 ? self.compute.gpus : 1)"
"""CEL: `TrainingCompute.processes`."""


class DatasetFormat(StrEnum):
    """Shapes of a training example."""

    AUTO = "auto"
    MESSAGES = "messages"
    PROMPT_COMPLETION = "promptCompletion"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"


class Metric(StrEnum):
    """Metrics over the held-out examples."""

    LOSS = "loss"
    PERPLEXITY = "perplexity"
    EXACT_MATCH = "exactMatch"


class MemoryProfile(StrEnum):
    """How training spends the memory of its GPU."""

    AUTO = "auto"
    FAST = "fast"
    LEAN = "lean"


class DatasetSource(storage.S3Access):
    """One file of examples, or a dataset of the Hugging Face Hub."""

    uri: str = Field(
        pattern=DATASET_URI,
        max_length=1024,
        json_schema_extra=by_rule(
            storage.uri_rule(
                DATASET_URI,
                "configmap://name/key, s3://bucket/key, https://host/file, pvc://claim/path or hf://org/name",
            )
        ),
        description="Where the examples lie: configmap://name/key, s3://bucket/key, https://host/file, "
        "pvc://claim/path or hf://org/name. Files are JSON Lines, JSON, CSV or Parquet, told by their ending "
        "(default: JSON Lines).",
    )
    revision: str | None = Field(default=None, max_length=128, description="Branch, tag or commit (hf:// only).")
    split: str | None = Field(
        default=None, max_length=64, description="Split of the dataset (hf:// only; default train)."
    )


class Dataset(ApiModel):
    """The examples and how they become tokens."""

    train: DatasetSource = Field(description="The training examples.")
    eval: DatasetSource | None = Field(
        default=None, description="The held-out examples. Without it evalFraction of the training examples is held out."
    )
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.1,
        description="Share of the training examples that is held out when eval is not set; 0 holds out none.",
    )
    format: DatasetFormat = Field(
        default=DatasetFormat.AUTO, description="Shape of an example; auto looks at its fields."
    )
    loss_on: Literal["completion", "assistant", "all"] = Field(
        default="completion",
        description="Tokens that count: the last answer (completion), every assistant turn (assistant), or all.",
    )
    max_samples: int | None = Field(
        default=None, ge=1, description="Use at most this many examples; evalFraction of them is held out."
    )


class Adapter(ApiModel):
    """The LoRA adapter: W0 + scale B A, with scale alpha/rank, or alpha/sqrt(rank) when rankStabilized."""

    method: Literal["lora"] = Field(default="lora", description="The adapter method.")
    rank: int = Field(
        default=16,
        ge=1,
        le=256,
        json_schema_extra=by_rule(
            Rule("self >= 1 && self <= 256", "must be from 1 to 256; 16 is a good start, 32 to 64 for reasoning")
        ),
        description="Rank of the update: 8 for format work, 32 to 64 for reasoning.",
    )
    alpha: int | None = Field(default=None, ge=1, le=4096, description="Scale numerator (default: twice the rank).")
    dropout: float = Field(default=0.0, ge=0, le=0.5, description="Dropout on the adapter's input.")
    target_modules: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        default=["all-linear"],
        min_length=1,
        max_length=64,
        description="Modules that get an adapter: all-linear, or names as q_proj and v_proj.",
    )
    rank_stabilized: bool = Field(default=False, description="Scale by alpha/sqrt(rank) (rsLoRA).")

    @property
    def effective_alpha(self) -> int:
        """Alpha, or its default of twice the rank."""
        return self.alpha if self.alpha is not None else 2 * self.rank


class Quantization(ApiModel):
    """How the frozen base model is held while training."""

    type: Literal["nf4", "none"] = Field(default="nf4", description="nf4 is QLoRA; none keeps 16 bits.")
    double_quant: bool = Field(default=True, description="Quantize the quantization constants too (nf4 only).")
    compute_dtype: Literal["bfloat16", "float16", "float32", "float8"] = Field(
        default="bfloat16",
        description="Type of the matrix products. float8 multiplies frozen weights in FP8 (e4m3) and all else in "
        "bfloat16: the fastest on Hopper and Ada GPUs, for the models that the engine knows.",
    )


class EarlyStopping(ApiModel):
    """Stop when the held-out loss no longer falls."""

    patience: int = Field(default=3, ge=1, le=100, description="Evaluations without improvement before stopping.")
    min_delta: float = Field(default=0.0, ge=0, le=100, description="Improvement of the loss that counts.")
    every_steps: int = Field(default=50, ge=1, description="Optimizer steps between two evaluations.")


class Training(ApiModel):
    """Hyperparameters."""

    epochs: float = Field(default=1.0, gt=0, le=1000, description="Passes over the training examples.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps; overrides epochs.")
    learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="Peak learning rate; 1e-4 to 3e-4 suits LoRA, over 5e-4 can be unstable."
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="Shape after the warm-up.")
    warmup_ratio: float = Field(default=0.03, ge=0, le=1, description="Share of the steps that warms up.")
    batch_size: int = Field(default=16, ge=1, le=65536, description="Sequences of an optimizer step, over all GPUs.")
    micro_batch_size: int | None = Field(
        default=None, ge=1, le=65536, description="Sequences of a forward pass (default: chosen by memory)."
    )
    max_seq_length: int = Field(
        default=2048, ge=8, le=1048576, description="Longest sequence in tokens; longer ones are cut."
    )
    packing: bool = Field(
        default=True,
        description="Lay the sequences of a micro-batch end to end instead of padding them, without cross-talk.",
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        default="adamw",
        description="Optimizer of the adapter: adamw (fused, float32 states) is the fastest; the 8-bit ones take 6 "
        "bytes less for each parameter of the adapter, for high ranks on small cards, and become adamw on CPUs.",
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="Decoupled weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000, description="Gradients are clipped to this norm.")
    neftune_noise_alpha: float | None = Field(
        default=None, gt=0, le=100, description="NEFTune: noise on the embeddings; 5 is usual."
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="Stop when the held-out loss no longer falls."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of data order, adapter start and dropout.")
    rules = (
        Rule(
            "!has(self.microBatchSize) || !has(self.batchSize) || self.batchSize % self.microBatchSize == 0",
            "training.batchSize is no multiple of training.microBatchSize; choose a divisor of batchSize",
        ),
    )


class Gate(ApiModel):
    """A limit that a metric must keep, or no adapter is published."""

    metric: Metric = Field(description="The metric, measured on the held-out examples after training.")
    min: float | None = Field(default=None, description="Least value that passes.")
    max: float | None = Field(default=None, description="Greatest value that passes.")
    rules = (
        Rule(
            "has(self.min) || has(self.max)",
            "'evaluation.gates: the gate on ' + self.metric + ' has neither min nor max; set one of them'",
            is_expression=True,
        ),
        Rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "min is over max: no value can pass this gate; lower min or raise max",
        ),
        Rule(
            "self.metric != 'exactMatch' || !has(self.min) || self.min <= 1.0",
            "exactMatch is a share from 0 to 1, so that no adapter can pass a min over 1; write 90 % as 0.9",
        ),
    )


class Evaluation(ApiModel):
    """What is measured on the held-out examples, before and after training."""

    metrics: list[Metric] = Field(
        default=[Metric.LOSS, Metric.PERPLEXITY],
        max_length=3,
        description="loss, perplexity, and exactMatch (greedy answers compared with the expected ones, in [0, 1]).",
    )
    max_samples: int = Field(
        default=64, ge=1, le=10000, description="Held-out examples that are answered for exactMatch."
    )
    max_new_tokens: int = Field(default=256, ge=1, le=8192, description="Longest answer in tokens.")
    prompts: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        default=[], max_length=10, description="Prompts that are answered before and after training."
    )
    gates: list[Gate] = Field(default=[], max_length=16, description="Limits that must hold, or nothing is published.")
    rules = (
        Rule(
            "!has(self.gates) || self.gates.all(g, !has(self.metrics) || g.metric in self.metrics)",
            "evaluation.gates names a metric that evaluation.metrics does not measure; add it to evaluation.metrics",
        ),
    )


class Output(storage.S3Access):
    """Where the adapter is published."""

    uri: str = Field(
        pattern=OUTPUT_URI,
        max_length=1024,
        json_schema_extra=by_rule(storage.uri_rule(OUTPUT_URI, "s3://bucket/prefix")),
        description="S3 prefix, as in s3://bucket/prefix; the adapter lies below it under adapters/<version>.",
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="What becomes of the published adapters when the fine-tune is deleted: Retain leaves all; Delete "
        "removes the adapters, records and checkpoints of the runs in status.history that nothing else names.",
    )


class Checkpoint(ApiModel):
    """When training is saved. Not an input: a run ends in the same adapter however often it was interrupted."""

    interval: int = Field(
        default=50,
        ge=1,
        le=1000000,
        json_schema_extra=by_rule(
            Rule("self >= 1 && self <= 1000000", "must be from 1 to 1000000 optimizer steps; 50 is usual")
        ),
        description="Optimizer steps between two checkpoints; the end of training and SIGTERM save one too.",
    )
    keep: int = Field(
        default=2,
        ge=1,
        le=100,
        json_schema_extra=by_rule(
            Rule("self >= 1 && self <= 100", "must be from 1 to 100; 2 leaves one to fall back to when one is damaged")
        ),
        description="Newest checkpoints that stay while the run goes on; none stays once the adapter is published.",
    )


IN_FLOAT8 = "self.quantization.computeDtype == 'float8'"


class LoraFineTuneSpec(ApiModel):
    """The recipe. Editing a training input starts a new run; going back finds the earlier run's adapter again."""

    base_model: storage.BaseModelSource = Field(description="The model that is tuned.")
    dataset: Dataset = Field(description="The examples.")
    objective: Literal["sft"] = Field(default="sft", description="What is learned: sft is supervised fine-tuning.")
    adapter: Adapter = Field(default=Adapter(), description="Shape of the adapter.")
    quantization: Quantization = Field(default=Quantization(), description="How the base model is held.")
    training: Training = Field(default=Training(), description="Hyperparameters.")
    evaluation: Evaluation = Field(default=Evaluation(), description="Measurements and gates.")
    memory_profile: MemoryProfile = Field(
        default=MemoryProfile.AUTO,
        description="How training spends GPU memory: auto plans the fastest step that fits the card; fast computes no "
        "activation again and takes the micro-batch that allows it; lean takes the least memory and is slower. The "
        "adapter is the same but for rounding, so changing this starts no new run.",
    )
    compute: TrainingCompute = Field(default=TrainingCompute(), description="Where and on what the training pods run.")
    output: Output = Field(description="Where the adapter is published.")
    checkpoint: Checkpoint = Field(
        default=Checkpoint(), description="When training is saved, so that a further attempt goes on from there."
    )
    suspend: bool = Field(default=False, description="Stop the run and hold it until false again.")
    retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Further attempts after a failure that a retry can mend; disruptions never count.",
    )
    active_deadline_seconds: int | None = Field(
        default=None, ge=1, description="Longest time of one attempt in seconds; over it the run fails."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, description="Seconds after which a finished run's Jobs are removed; the object stays."
    )
    rules = (
        Rule(
            "has(self.dataset.eval) || !has(self.dataset.evalFraction) || self.dataset.evalFraction > 0.0 || "
            "!has(self.evaluation.gates) || size(self.evaluation.gates) == 0",
            "evaluation.gates need held-out examples: set dataset.eval or a dataset.evalFraction over 0",
        ),
        Rule(
            f"self.training.batchSize % ({PROCESSES}) == 0",
            "training.batchSize is not a multiple of compute.nodes times compute.gpus (of compute.nodes on CPUs): each "
            "process trains an equal share of a batch; change one of them, as in 16 for 2 nodes of 4 GPUs",
        ),
        Rule(
            f"!({IN_FLOAT8}) || self.compute.gpus > 0",
            "quantization.computeDtype is float8 and compute.gpus is 0: FP8 wants a GPU (Ada, Hopper or later); set "
            "compute.gpus to 1, or computeDtype to bfloat16",
        ),
        Rule(
            f"!({IN_FLOAT8}) || self.adapter.dropout == 0.0",
            "quantization.computeDtype is float8 and adapter.dropout is over 0: FP8 is for adapters without dropout; "
            "set dropout to 0, or computeDtype to bfloat16",
        ),
    )
