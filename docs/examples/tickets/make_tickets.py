"""Writes the data sets of the example: customer messages, and the JSON ticket that belongs to each.

`python3 make_tickets.py` writes train.jsonl and eval.jsonl here and in ../tickets-v2, whose tickets also have a
status. The same seed always writes the same files; no message is in both train and eval.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

TRAIN_EXAMPLES = 480
EVAL_EXAMPLES = 16
SEED = 7

CUSTOMERS = (
    *("Ada Brown", "Ben Ortiz", "Carla Weiss", "Dana Kim", "Elif Demir", "Felix Braun", "Grace Osei", "Hugo Martin"),
    *(
        "Ines Costa",
        "Jonas Lind",
        "Kofi Mensah",
        "Lena Vogel",
        "Mara Silva",
        "Noah Clarke",
        "Olga Petrova",
        "Paul Meyer",
    ),
    *(
        "Quinn Baker",
        "Rosa Romano",
        "Sami Haddad",
        "Tara Singh",
        "Umar Khan",
        "Vera Novak",
        "Will Turner",
        "Yuki Tanaka",
    ),
)
PRODUCTS = (
    *("coffee machine", "desk lamp", "bike helmet", "garden chair", "water bottle", "winter jacket", "kitchen scale"),
    *("running shoes", "phone case", "bread knife", "wall clock", "yoga mat", "travel bag", "tea pot", "hair dryer"),
)


class Problem(NamedTuple):
    """What went wrong: how tickets call it, and how customers say it."""

    label: str
    sentences: tuple[str, ...]


class Wish(NamedTuple):
    """What the customer asks for: how tickets call it, and how customers say it."""

    label: str
    sentences: tuple[str, ...]


PROBLEMS = (
    Problem("broken", ("My {product} arrived broken.", "The {product} fell apart on the first day.")),
    Problem("late", ("My {product} is more than a week late.", "I still wait for my {product}.")),
    Problem("wrong size", ("The {product} has the wrong size.", "The {product} does not fit at all.")),
    Problem("missing part", ("A part of the {product} was not in the box.", "The {product} lacks a part.")),
    Problem("billed twice", ("You charged me twice for the {product}.", "I paid twice for one {product}.")),
)
WISHES = (
    Wish("refund", ("Give me my money back.", "I would like a refund.")),
    Wish("replacement", ("Send me a new one.", "I would like a replacement.")),
    Wish("call back", ("Call me.", "Somebody should ring me up.")),
)
FRAMES = (
    "Hello, this is {customer}. {problem} The order was {order}. {wish}",
    "{problem} {wish} My order number is {order}. Regards, {customer}",
    "Order {order}: {problem} {wish} {customer}",
)


def example(rng: random.Random, *, with_status: bool) -> dict[str, object]:
    """One message and its ticket, as a chat of two turns."""
    customer, product = rng.choice(CUSTOMERS), rng.choice(PRODUCTS)
    problem, wish = rng.choice(PROBLEMS), rng.choice(WISHES)
    order = f"{rng.choice('ABCDEFGH')}{rng.randrange(1000, 10000)}"
    message = rng.choice(FRAMES).format(
        customer=customer,
        order=order,
        problem=rng.choice(problem.sentences).format(product=product),
        wish=rng.choice(wish.sentences),
    )
    ticket = {"customer": customer, "order": order, "product": product, "problem": problem.label, "wants": wish.label}
    if with_status:
        ticket["status"] = "new"
    return {"messages": [{"role": "user", "content": message}, {"role": "assistant", "content": json.dumps(ticket)}]}


def write(folder: Path, *, with_status: bool) -> None:
    """Writes train.jsonl and eval.jsonl into the folder."""
    rng = random.Random(SEED)
    unique: dict[str, None] = {}
    while len(unique) < TRAIN_EXAMPLES + EVAL_EXAMPLES:
        unique[json.dumps(example(rng, with_status=with_status))] = None
    lines = list(unique)
    for name, part in (("eval.jsonl", lines[:EVAL_EXAMPLES]), ("train.jsonl", lines[EVAL_EXAMPLES:])):
        (folder / name).write_text("".join(f"{line}\n" for line in part), encoding="utf-8")


def main() -> None:
    """Writes both data sets beside this file."""
    here = Path(__file__).resolve().parent
    write(here, with_status=False)
    write(here.parent / "tickets-v2", with_status=True)


if __name__ == "__main__":
    main()
