"""The errors of talking to the Kubernetes API, by what to do about them.

ApiError
├── Transient          retry with back-off: no answer, 429, 5xx
├── Conflict           409: read again, plan again
├── AlreadyExists      409 on a creation: read it, adopt it if it is ours
├── NotFound           404
├── Gone               410: list again
├── Invalid            400, 413, 422: the same request never succeeds
└── Forbidden          403: the operator lacks a right
    ├── NamespaceEnds  403 on a creation: the namespace is being deleted
    ├── NotAdmitted    403 on a creation: a quota or an admission webhook does not let it in
    └── Unauthorized   401: the operator is not known, as when its token has just ended
NameConflict           a child of ours would have the name of something else
NotLeader              this replica may not write (any more)
"""

from __future__ import annotations


class ApiError(Exception):
    """The API server refused a request, or did not answer."""

    said = ""
    """The API server's own words, where it had any."""


class Transient(ApiError):
    """The same request can succeed later; `retry_after_s` is the server's word on when, if it said one."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(ApiError):
    """The object has changed since it was read."""


class AlreadyExists(ApiError):
    """An object of that name is there."""


class NotFound(ApiError):
    """No such object, or no such kind."""


class Gone(ApiError):
    """The resource version is too old."""


class Invalid(ApiError):
    """The API server holds the request for wrong."""


class Forbidden(ApiError):
    """The operator's role lacks a right."""


class NamespaceEnds(Forbidden):
    """Nothing can be created in the namespace any more."""


class NotAdmitted(Forbidden):
    """A quota of the namespace, or an admission webhook, does not let the object in."""


class Unauthorized(Forbidden):
    """The API server does not know the operator."""


class NameConflict(Exception):
    """A child's name belongs to something else."""


class NotLeader(Exception):
    """This replica holds the Lease no longer, or may not be sure of it."""
