"""The Hugging Face Hub: models and datasets, with every failure turned into one of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import errors as hub_errors

from loraline_trainer import errors
from loraline_trainer.storage.retries import Passing, Patience
from loraline_trainer.storage.s3 import first_line

T = TypeVar("T")

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja")
DESCRIPTION_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
"""All but the weights: enough to render and count examples."""


@dataclass(frozen=True, slots=True)
class Hub:
    """The Hub as one user sees it.

    Attributes:
        secret: folder with the file HF_TOKEN, or None for an anonymous user or the token of the environment.
        field_name: field of the recipe that the user mends, as in `baseModel`.
        missing: error for what does not exist.
    """

    secret: Path | None
    field_name: str
    missing: type[errors.TrainerError]
    patience: Patience = field(default_factory=Patience)

    def token(self) -> str | None:
        """The token of the Secret."""
        file = self.secret / "HF_TOKEN" if self.secret is not None else None
        return file.read_text().strip() if file is not None and file.is_file() else None

    def model(self, name: str, revision: str | None, *, weights: bool, code: bool) -> tuple[Path, str]:
        """Folder of a model and its resolved commit.

        Args:
            name: as in org/name.
            weights: fetch the weights too.
            code: fetch Python files too.
        """
        patterns = [*(MODEL_FILES if weights else DESCRIPTION_FILES), *(["*.py"] if code else [])]
        folder = self._call(
            name,
            revision,
            lambda: Path(
                huggingface_hub.snapshot_download(name, revision=revision, token=self.token(), allow_patterns=patterns)
            ),
        )
        return folder, folder.name

    def dataset(self, name: str, revision: str | None, split: str) -> list[dict[str, Any]]:
        """The rows of a split of a dataset."""
        import datasets

        def load() -> list[dict[str, Any]]:
            try:
                loaded = datasets.load_dataset(name, revision=revision, split=split, token=self.token())
            except datasets.exceptions.FileNotFoundDatasetsError as error:
                raise self._not_found(name, error) from error
            return [dict(row) for row in loaded]

        return self._call(name, revision, load)

    def _not_found(self, name: str, error: Exception) -> errors.TrainerError:
        """What `datasets` means by a dataset that it does not find; it is no OSError of the network."""
        if "gated" in str(error):
            return self._gated(f"hf://{name}")
        return self.missing(
            f"hf://{name}: {first_line(error)}; correct {self.field_name}, or put a token as HF_TOKEN into the Secret "
            f"of {self.field_name}.secretRef"
        )

    def _gated(self, at: str) -> errors.AccessDenied:
        return errors.AccessDenied(
            f"{at} is gated: accept its terms on huggingface.co and put a token of that account as HF_TOKEN into "
            f"the Secret of {self.field_name}.secretRef"
        )

    def _call(self, name: str, revision: str | None, operation: Callable[[], T]) -> T:
        return self.patience.keep_trying(lambda: self._once(name, revision, operation))

    def _once(self, name: str, revision: str | None, operation: Callable[[], T]) -> T:
        at = f"hf://{name}" + (f" at {revision}" if revision else "")
        try:
            return operation()
        except hub_errors.GatedRepoError as error:
            raise self._gated(at) from error
        except hub_errors.RevisionNotFoundError as error:
            raise self.missing(f"{at} does not exist; correct {self.field_name}.revision") from error
        except hub_errors.RepositoryNotFoundError as error:
            raise self.missing(
                f"{at} does not exist, or is private; correct {self.field_name}.uri, or put a token as HF_TOKEN into "
                f"the Secret of {self.field_name}.secretRef"
            ) from error
        except hub_errors.HFValidationError as error:
            raise errors.InvalidSpec(f"{self.field_name}.uri is {at}: {first_line(error)}") from error
        except hub_errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise errors.AccessDenied(
                    f"the Hub denies access to {at} ({status}); check HF_TOKEN in the Secret of "
                    f"{self.field_name}.secretRef"
                ) from error
            raise Passing(f"the Hub answered {at} with {first_line(error)}") from error
        except (hub_errors.LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
            raise Passing(f"the Hub did not answer for {at}: {first_line(error)}") from error
        except ValueError as error:  # datasets: an unknown split or a repository without data files
            raise self.missing(f"{at}: {first_line(error)}; correct {self.field_name}") from error
