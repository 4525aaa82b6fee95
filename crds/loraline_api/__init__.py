"""The Loraline API: the two kinds, what travels between the programs, and the words of their statuses.

Pure values only: nothing here talks to Kubernetes, S3 or a model. The operator, the trainer and the switchboard import
these models, so that a field exists in one place.
"""

GROUP = "loraline.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
