"""Answers of a real model to prompts of different lengths and limits, together and each alone."""

from __future__ import annotations

from pathlib import Path

from loraline_trainer.evaluation import answers
from loraline_trainer.evaluation.answers import Asked
from loraline_trainer.model import loading, tokenizer
from loraline_trainer.storage import base_model
from trainer.builders import recipe


def test_each_answer_of_a_batch_is_the_one_that_its_prompt_gets_alone(base: Path) -> None:
    """In float32, as rounding in bfloat16 may tip a token over."""
    a_run = recipe("http://s3:9000", quantization={"type": "none", "computeDtype": "float32"})
    model = base_model.BaseModel(base, "tiny", None, {})
    loaded = loading.load(a_run, model, tokenizer.load(a_run, model))
    stop_ids = frozenset([loaded.tokenizer.eos_token_id])
    texts = [("1+1", 3), ("a longer prompt", 9), ("2+2=", 3), ("7", 1)]
    asked = [Asked(loaded.tokenizer(text)["input_ids"], limit) for text, limit in texts]
    together = answers.greedy(loaded.model, loaded, asked, stop_ids)
    for one, answer in zip(asked, together, strict=True):
        (alone,) = answers.greedy(loaded.model, loaded, [one], stop_ids)
        assert answer == alone
    (longer,) = answers.greedy(loaded.model, loaded, [Asked(asked[0].prompt, 9)], stop_ids)
    assert longer.startswith(together[0])
    assert longer != together[0]
