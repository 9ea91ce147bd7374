"""The one error of this package."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be used; the message says why and what to do.

    `code` is a short, stable, kebab-case name for programs (for example `weights-digest`).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ModelError], tuple[str, str]]:
        return type(self), (self.code, self.message)
