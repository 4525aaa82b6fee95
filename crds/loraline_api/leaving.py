"""How a serving pod leaves without losing a request: all times of it, each derived from the one before.

0 s                     deletion: the endpoint goes, the engine's preStop asks the switchboard's /drain
DRAIN_QUIET_S and more  no request in flight, and none came for DRAIN_QUIET_S: /drain answers
DRAIN_LIMIT_S           /drain answers at the latest
+ ENGINE_STOP_S         SIGTERM to vLLM, which has nothing left to do
+ SWITCHBOARD_STOP_S    SIGTERM to the switchboard, a sidecar that ends after vLLM
= GRACE_PERIOD_S        SIGKILL to what is left
"""

from __future__ import annotations

DRAIN_QUIET_S = 5.0
"""Without a request for so long a leaving pod is idle: proxies need 1 to 2 s to see that its endpoint is gone."""

DRAIN_LIMIT_S = 300
"""Longest wait for requests in flight: the longest answer that is promised to end."""

ENGINE_STOP_S = 30
"""vLLM ends within seconds of SIGTERM; one that hangs and is started again gets no longer than this."""

SWITCHBOARD_STOP_S = 30
"""The switchboard ends at once when nothing is in flight."""

GRACE_PERIOD_S = DRAIN_LIMIT_S + ENGINE_STOP_S + SWITCHBOARD_STOP_S
"""The pod's terminationGracePeriodSeconds, which covers preStop and all SIGTERMs."""
