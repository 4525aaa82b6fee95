"""The Loraline operator: turns LoraFineTune objects into training Jobs and AdapterDeployment objects into servers."""

__version__ = "0.1.0"
