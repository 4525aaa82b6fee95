"""The index of references: changes reach those that refer, and ghosts go."""

from __future__ import annotations

from loraline_operator.actions import Kind, Ref
from loraline_operator.references import References

DEPLOYMENT = Ref(Kind.ADAPTER_DEPLOYMENT, "ns", "support")
OTHER = Ref(Kind.ADAPTER_DEPLOYMENT, "ns", "other")
FIRST = Ref(Kind.FINE_TUNE, "ns", "first")
SECOND = Ref(Kind.FINE_TUNE, "ns", "second")


def test_a_target_names_all_that_refer_to_it() -> None:
    references = References()
    references.set(DEPLOYMENT, [FIRST, SECOND])
    references.set(OTHER, [FIRST])
    assert (references.to(FIRST), references.to(SECOND)) == ((OTHER, DEPLOYMENT), (DEPLOYMENT,))


def test_a_reference_that_is_no_more_is_forgotten() -> None:
    references = References()
    references.set(DEPLOYMENT, [FIRST])
    references.set(DEPLOYMENT, [SECOND])
    assert (references.to(FIRST), references.to(SECOND)) == ((), (DEPLOYMENT,))


def test_objects_that_a_list_does_not_hold_are_ghosts() -> None:
    references = References()
    references.set(DEPLOYMENT, [FIRST])
    references.set(OTHER, [FIRST])
    assert references.keep_only({OTHER}) == (DEPLOYMENT,)
    assert references.to(FIRST) == (OTHER,)
