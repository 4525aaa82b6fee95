"""Writes a tiny random Llama with its own tokenizer, and PEFT adapters of it, for tests that need real files fast.

Its weights mean nothing, so it shows how things are loaded, trained, served and told apart; what a model can learn is
shown with SmolLM2 (model.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

UNKNOWN, BEGIN, END, PADDING = SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]
VOCABULARY = 512
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# The generation markers tell a trainer which tokens are the assistant's; an answer ends in the end token.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- 'assistant: ' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{- message['role'] + ': ' + message['content'] + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "hello world, how are you today?",
    '{"customer": "Ada", "order": 17, "problem": "the lamp is broken"}',
    "system: user: assistant: kubernetes operators roll adapters",
    "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ",
]


def tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer of 512 tokens with a chat template; every text survives a round trip."""
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS * 20,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END, pad_token=PADDING
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_base(folder: Path, *, seed: int = 0, hidden_size: int = 64, max_length: int = 512) -> Path:
    """Writes a base model of two layers (136,000 parameters) and its tokenizer; a seed gives always the same."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=hidden_size // 2,
        max_position_embeddings=max_length,
        bos_token_id=SPECIAL_TOKENS.index(BEGIN),
        eos_token_id=SPECIAL_TOKENS.index(END),
        pad_token_id=SPECIAL_TOKENS.index(PADDING),
        tie_word_embeddings=False,
        initializer_range=0.2,  # ten times the usual: greedy answers then differ from prompt to prompt
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_adapter(
    base: Path,
    folder: Path,
    *,
    seed: int,
    rank: int = 8,
    target_modules: Sequence[str] = ALL_LINEAR,
    **settings: Any,
) -> Path:
    """Writes an adapter that changes the base's answers; `settings` are further arguments of LoraConfig."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(target_modules), task_type="CAUSAL_LM", **settings
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # zero in a fresh adapter, which would change nothing
                parameter.normal_(0, 0.3)
    adapted.save_pretrained(str(folder))
    return folder
