"""The copies of children and objects: they never go back in time, and lose what is gone."""

from __future__ import annotations

from typing import Any

from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.children import Children
from loraline_operator.complaints import Complaints
from loraline_operator.objects import Objects

TICKETS = Ref(Kind.FINE_TUNE, "team", "tickets")
A = Ref(Kind.POD, "team", "a")
"""A child; others may wait for it."""


def a_pod(name: str, version: int, phase: str = "Pending", owner: str = "tickets") -> Manifest:
    labels = {"app.kubernetes.io/managed-by": "loraline", "loraline.dev/finetune": owner}
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "uid": f"uid-{name}", "labels": labels}
    return {"metadata": metadata | {"resourceVersion": str(version)}, "status": {"phase": phase}}


def copies() -> tuple[Children, list[Ref]]:
    news: list[Ref] = []
    return Children(lambda ref, version=None: news.append(ref)), news


def phases(children: Children) -> dict[str, str]:
    return {pod.name: pod.phase for pod in children.pods.of("team", "tickets")}


def test_a_child_is_news_to_its_fine_tune() -> None:
    children, news = copies()
    children.pods.seen(a_pod("a", 5))
    assert (phases(children), news) == ({"a": "Pending"}, [TICKETS, A])


def test_an_older_or_repeated_state_is_no_news_and_changes_nothing() -> None:
    children, news = copies()
    for version, phase in ((7, "Running"), (7, "Running"), (5, "Pending")):
        children.pods.seen(a_pod("a", version, phase))
    assert (phases(children), news) == ({"a": "Running"}, [TICKETS, A])


def test_what_this_process_wrote_is_seen_at_once_and_its_event_is_no_news() -> None:
    children, news = copies()
    children.wrote(Ref(Kind.POD, "team", "a"), a_pod("a", 5))
    children.pods.seen(a_pod("a", 5))
    assert (phases(children), news) == ({"a": "Pending"}, [])


def test_a_deleted_child_goes_and_a_late_state_of_it_does_not_bring_it_back() -> None:
    children, _ = copies()
    for name in ("a", "b"):
        children.pods.seen(a_pod(name, 5))
    children.pods.gone(a_pod("a", 9))
    children.pods.seen(a_pod("a", 8))
    assert phases(children) == {"b": "Pending"}


def test_a_list_drops_ghosts_and_tells_their_fine_tune() -> None:
    children, news = copies()
    for name in ("a", "b"):
        children.pods.seen(a_pod(name, 5))
    news.clear()
    children.pods.keep_only(None, {("team", "b")}, 10)
    assert (phases(children), news) == ({"b": "Pending"}, [TICKETS])


def test_a_list_of_another_namespace_leaves_the_child_alone() -> None:
    children, _ = copies()
    children.pods.seen(a_pod("a", 5))
    children.pods.keep_only("other", set(), 10)
    assert phases(children) == {"a": "Pending"}


def test_a_list_that_shows_an_older_world_takes_nothing_back() -> None:
    children, _ = copies()
    children.pods.seen(a_pod("a", 20, "Running"))
    children.pods.listed(TICKETS, [], 10)
    assert phases(children) == {"a": "Running"}
    children.pods.listed(TICKETS, [a_pod("a", 9)], 10)
    assert phases(children) == {"a": "Running"}


def test_a_child_that_a_newer_list_lacks_does_not_come_back_by_a_late_event() -> None:
    children, _ = copies()
    children.pods.seen(a_pod("a", 5))
    children.pods.listed(TICKETS, [], 10)
    children.pods.seen(a_pod("a", 8))
    assert phases(children) == {}


def test_a_child_of_a_deployment_is_told_and_not_kept() -> None:
    children, news = copies()
    pod = a_pod("a", 5)
    pod["metadata"]["labels"] = {"loraline.dev/deployment": "support"}
    children.pods.seen(pod)
    assert news == [Ref(Kind.ADAPTER_DEPLOYMENT, "team", "support"), A]


def test_objects_keep_the_newest_state_without_managed_fields() -> None:
    objects = Objects()
    metadata = {"name": "tickets", "resourceVersion": "5", "managedFields": [{}]}
    assert objects.put(TICKETS, {"metadata": metadata, "spec": {"a": 1}})
    assert not objects.put(TICKETS, {"metadata": metadata | {"resourceVersion": "4"}})
    assert objects.get(TICKETS) == {"metadata": {"name": "tickets", "resourceVersion": "5"}, "spec": {"a": 1}}


def test_objects_that_a_list_lacks_are_forgotten_unless_they_are_newer() -> None:
    objects = Objects()
    other = Ref(Kind.FINE_TUNE, "team", "other")
    objects.put(TICKETS, {"metadata": {"resourceVersion": "5"}})
    objects.put(other, {"metadata": {"resourceVersion": "11"}})
    assert objects.keep_only(Kind.FINE_TUNE, None, set(), 10) == (TICKETS,)
    assert (objects.get(TICKETS), objects.get(other)) == (None, {"metadata": {"resourceVersion": "11"}})


def a_complaint(message: str, at: str, reason: str = "FailedCreate") -> Manifest:
    about = {"uid": "u", "namespace": "team", "name": "a"}
    return {"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": at}


def test_the_last_complaint_about_a_pod_is_kept_and_told_to_its_fine_tune() -> None:
    news: list[Ref] = []
    complaints = Complaints(
        lambda namespace, name: TICKETS if (namespace, name) == ("team", "a") else None, news.append
    )
    complaints.seen(a_complaint('secret "s3" not found', "2026-01-01T00:00:01Z"))
    complaints.seen(a_complaint("an earlier one", "2026-01-01T00:00:00Z"))
    stuck = complaints.about("u")
    assert (stuck is not None and (stuck.reason, stuck.message)) == ("ConfigMissing", 'secret "s3" not found')
    assert (news, complaints.about("other")) == ([TICKETS], None)


def test_a_quota_is_told_apart_from_what_is_missing() -> None:
    complaints = Complaints(lambda *_: None, lambda _: None)
    complaints.seen(a_complaint('pods "a" is forbidden: exceeded quota: team', "2026-01-01T00:00:01Z"))
    stuck = complaints.about("u")
    assert stuck is not None
    assert stuck.reason == "Unschedulable"


def test_what_kueue_said_when_it_stopped_a_job_is_no_complaint_and_told_at_once() -> None:
    news: list[Ref] = []
    complaints = Complaints(lambda *_: TICKETS, news.append)
    complaints.seen(a_complaint("Preempted to accommodate another", "2026-01-01T00:00:01Z", "Stopped"))
    assert (complaints.stopped("u"), complaints.about("u"), news) == (
        "Preempted to accommodate another",
        None,
        [TICKETS],
    )
    complaints.seen(a_complaint('secret "s3" not found', "2026-01-01T00:00:02Z"))
    complaints.seen(a_complaint("Not admitted by cluster queue", "2026-01-01T00:00:03Z", "Stopped"))
    assert complaints.stopped("u") == "Not admitted by cluster queue"
    assert complaints.about("u") is not None
    assert complaints.stopped("other") is None
