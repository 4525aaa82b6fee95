"""The switchboard: the sidecar in every serving pod that loads adapter versions, proves them and routes names to them.

It works towards the routing table that the operator writes; it knows nothing of Kubernetes.
"""
