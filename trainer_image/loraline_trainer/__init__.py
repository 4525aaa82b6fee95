"""loraline-train: turns the recipe of a LoraFineTune into a published LoRA adapter.

Knows nothing of Kubernetes: in a pod it reads mounted files, on a laptop a manifest.
"""

__version__ = "0.1.0"
