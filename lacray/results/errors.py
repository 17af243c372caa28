"""What a user can mend about where results lie, and that no credential is ever in the words."""

from __future__ import annotations

import os
import re
from typing import Any

from lacray.config import UserError

# Values that must never be read in a message or a row; the S3 client adds those that it found in files or roles.
_SECRETS: set[str] = set()
# Not the key's id: AWS's have a form of their own, and that of a server in the next room may be any word.
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_FORMS = re.compile(
    # A secret may hold slashes.
    r"(?P<userinfo>(?<=://)[^/\s@:]*(?::[^\s@]*)?(?=@))"
    r"|(?P<query>(?<=X-Amz-Credential=)[^&\s]+|(?<=X-Amz-Signature=)[^&\s]+|(?<=X-Amz-Security-Token=)[^&\s]+)"
    r"|(?P<key>\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)"
)


def keep_secret(*values: str | None) -> None:
    """Values that `redact` shall take out of every text from now on."""
    # A value of a few letters would tear holes into ordinary words.
    _SECRETS.update(value for value in values if value and len(value) >= 6)


def redact(text: str) -> str:
    """The text without keys, secrets, session tokens and the user's part of addresses."""
    known = {value for name in _SECRET_VARIABLES if len(value := os.environ.get(name, "")) >= 6}
    # The longest first: one may be the beginning of another.
    for secret in sorted(known | _SECRETS, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _SECRET_FORMS.sub("***", text)


def refuse_secret(key: str, value: Any) -> None:
    """Whether a setting may be written; with stars in it, it would be another one.

    Args:
        key: of the setting.
        value: of it; only texts, alone or in a list, can be secret.

    Raises:
        ResultsError: it holds a password or key.
    """
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and redact(text) != text:
            raise ResultsError(
                f"{key}={text}",
                "must hold no password or key, since the results tell every setting to whoever reads them",
                "give it without, or choose a key that is no word of it",
            )


class ResultsError(UserError):
    """What a user can mend about where results lie: the value, the rule, the remedy; credentials taken out."""

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        self.value, self.rule, self.remedy = redact(value), redact(rule), redact(remedy)
        super().__init__(f"{self.value}: {self.rule}; {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again from its parts, also in another process.
        return type(self), (self.value, self.rule, self.remedy)


class SupersededError(ResultsError):
    """Another process writes this run now; this one must stop."""
