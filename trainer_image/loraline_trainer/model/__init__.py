"""The base model in memory: loading, NF4 on CPUs and GPUs, and the LoRA adapter on top."""
