"""What the end-to-end tests stand on: the demo's cluster, small fine-tunes, and looks at what became of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import asking, example, ground, store, story
from demo.kubectl import Kubectl, Object, condition, wait_for

TINY_PREFIX = "tiny"
TINY_URI = f"s3://{store.MODEL_BUCKET}/{TINY_PREFIX}"
LONG_STEPS = 1000
"""Steps of the tiny model that take long enough to be interrupted."""

GOOD_DATA = "".join(
    json.dumps({"prompt": f"say {number}", "completion": f"it is {number}"}) + "\n" for number in range(16)
)


@dataclass(frozen=True, slots=True)
class Stage:
    """The cluster after the demo, and the demo's numbers."""

    where: ground.Ground
    numbers: Mapping[str, Any]

    @property
    def kubectl(self) -> Kubectl:
        """kubectl in the demo's namespace."""
        return self.where.kubectl

    def in_system(self, *args: str) -> str:
        """Output of kubectl in the operator's namespace."""
        return dataclasses.replace(self.kubectl, namespace=ground.SYSTEM).run(*args)

    def finetune(self, name: str) -> Object:
        """A fine-tune, or nothing of it yet."""
        return self.kubectl.get("lorafinetune", name) or {}

    def deployment(self) -> Object:
        """The demo's deployment."""
        return self.kubectl.get("adapterdeployment", example.DEPLOYMENT) or {}

    def jobs(self, finetune: str) -> dict[str, str]:
        """uids of a fine-tune's Jobs by name."""
        items = self.kubectl.items("jobs", f"loraline.dev/finetune={finetune}")
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def pods(self, finetune: str) -> list[Object]:
        """A fine-tune's pods."""
        return self.kubectl.items("pods", f"loraline.dev/finetune={finetune}")

    def start(self, name: str, *, saved_step: int | None = None, **changes: Any) -> Object:
        """A fine-tune of the tiny model whose pod trains, and has saved a step when one is asked for."""
        recipe = finetune(name, max_steps=LONG_STEPS, checkpoint={"interval": 20}, **changes)
        self.kubectl.apply(data(name, GOOD_DATA), recipe)
        return self.training(name, saved_step=saved_step)

    def training(self, name: str, *, saved_step: int | None = None) -> Object:
        """A fine-tune whose pod trains, and has saved a step when one is asked for."""

        def look() -> Object | None:
            found = self.finetune(name)
            progress = found.get("status", {}).get("progress", {})
            if progress.get("stage") != "Training":
                return None
            return found if progress.get("checkpoint", {}).get("savedStep", 0) >= (saved_step or 0) else None

        return wait_for(f"training of {name}", look, timeout_s=300, every_s=0.5)

    def completed(self, name: str) -> Object:
        """A fine-tune whose run ended well."""
        found = self.ended(name)
        complete = condition(found, "Complete") or {}
        assert complete["status"] == "True", complete["message"]
        return found

    def ended(self, name: str, *, timeout_s: float = 600) -> Object:
        """A fine-tune whose run ended, well or not."""

        def look() -> Object | None:
            found = self.finetune(name)
            statuses = {(condition(found, kind) or {}).get("status") for kind in ("Complete", "Failed")}
            return found if "True" in statuses else None

        return wait_for(f"the end of fine-tune {name}", look, timeout_s=timeout_s)

    def wait(self, what: str, look: Callable[[], bool], *, timeout_s: float = 300, every_s: float = 1.0) -> None:
        """Waits for a truth."""
        wait_for(what, lambda: look() or None, timeout_s=timeout_s, every_s=every_s)

    def assert_still_serving(self) -> None:
        """The demo's route answers with a ticket of the version that its status names."""
        (route,) = [route for route in self.deployment()["status"]["routes"] if route["name"] == example.ROUTE]
        message = example.questions(example.SECOND)[0].message
        (answer,) = asking.ask_once(self.kubectl, story.service_url(), example.ROUTE, [message])
        assert answer.status == 200, answer.error
        assert answer.version == route["version"]
        assert example.has_status(answer.text) is not None, answer.text


def version_of(found: Object) -> str:
    """The version of the adapter of a fine-tune."""
    return str(found["status"]["adapter"]["version"])


def resumed_step(found: Object) -> int:
    """The step from which the last attempt of a fine-tune went on."""
    return int(found["status"]["progress"]["checkpoint"]["resumedStep"])


def trainer_of(pod: Object) -> int | None:
    """The process of a pod's trainer, on this machine, which is the node; None when there is none yet."""
    uid = pod["metadata"]["uid"]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # processes come and go
            is_in_pod = uid in (folder / "cgroup").read_text().replace("_", "-")
            if is_in_pod and b"loraline_trainer" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    return None


def go_to(stage: Stage, folder: Path, version: str) -> None:
    """Applies an example whose adapter is known, and waits until it is served."""
    place = example.Place(f"s3://{store.MODEL_BUCKET}/{ground.MODEL}", store.S3_ENDPOINT, 0)
    stage.kubectl.apply(*example.manifests(stage.kubectl, folder, place))

    def is_there() -> bool:
        finetune = stage.finetune(example.FINETUNE)
        is_current = finetune["status"].get("adapter", {}).get("version") == version
        return is_current and story.is_served(finetune, stage.deployment(), None)

    stage.wait(f"version {version} to be served", is_there, every_s=0.3)


def data(name: str, train: str) -> Object:
    """A ConfigMap with training examples."""
    metadata = {"name": name, "labels": {"loraline.dev/dataset": "true"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"train": train, "eval": GOOD_DATA}}


def finetune(name: str, *, data_name: str | None = None, max_steps: int = 2, **changes: Any) -> Object:
    """A fine-tune of the tiny model, which takes seconds once its pod has imported PyTorch."""
    config_map = data_name or name
    spec: Object = {
        "baseModel": {"uri": TINY_URI},
        "dataset": {
            "train": {"uri": f"configmap://{config_map}/train"},
            "eval": {"uri": f"configmap://{config_map}/eval"},
        },
        "adapter": {"rank": 4},
        "training": {"maxSteps": max_steps, "batchSize": 2, "maxSeqLength": 128, "learningRate": 0.01},
        "compute": {"gpus": 0, "requests": {"cpu": "100m", "memory": "2Gi"}},
        "output": {
            "uri": f"s3://{store.ADAPTER_BUCKET}/{name}",
            "endpoint": store.S3_ENDPOINT,
            "secretRef": {"name": store.SECRET},
        },
        "retries": 0,
    }
    metadata = {"name": name}
    return {
        "apiVersion": "loraline.dev/v1alpha1",
        "kind": "LoraFineTune",
        "metadata": metadata,
        "spec": spec | changes,
    }
