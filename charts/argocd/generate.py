"""Writes argocd-cm.yaml: the health checks of both kinds as a patch of Argo CD's own ConfigMap."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKS = HERE / "resource_customizations" / "loraline.dev"

HEAD = """# Teaches Argo CD the health of both kinds; written by `make generate` from resource_customizations/.
#   kubectl --namespace argocd patch configmap argocd-cm --patch-file charts/argocd/argocd-cm.yaml
data:
"""


def patch() -> str:
    """The patch as YAML."""
    parts = [HEAD]
    for script in sorted(CHECKS.glob("*/health.lua")):
        parts.append(f"  resource.customizations.health.{CHECKS.name}_{script.parent.name}: |\n")
        parts += [f"    {line}\n" if line else "\n" for line in script.read_text(encoding="utf-8").splitlines()]
    return "".join(parts)


if __name__ == "__main__":
    (HERE / "argocd-cm.yaml").write_text(patch(), encoding="utf-8")
