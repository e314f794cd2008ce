"""The last line of defence for secrets: what the configuration reveals to adapters is hidden in texts that leave a handler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mqsdk.config.model import Configuration
from mqsdk.config.secret import MASK, Secret, is_secret_name

# Shorter ones would turn ordinary words into stars and hide nothing that could not be guessed.
MIN_LENGTH = 4


def mask_for(configuration: Configuration) -> Callable[[str], str]:
    """A function that replaces every secret of this configuration by `***`."""
    return mask_of(secrets_of(configuration))


def secrets_of(configuration: Configuration) -> list[str]:
    """What is worth masking, the longest first."""
    found = {
        text for cluster in configuration.clusters.values() for text in _secrets(cluster.options, f"clusters.{cluster.name}", configuration)
    }
    found.add(configuration.observability.token)
    return sorted((text for text in found if len(text) >= MIN_LENGTH), key=len, reverse=True)


def mask_of(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that replaces each of these texts by `***`."""
    if not secrets:
        return str

    def mask(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, MASK)
        return text

    return mask


def _secrets(options: Mapping[str, Any], path: str, configuration: Configuration) -> Iterator[str]:
    for name, value in options.items():
        key = f"{path}.{name}"
        if isinstance(value, Mapping):
            yield from _secrets(value, key, configuration)
        elif isinstance(value, Secret):
            yield value.reveal()
        elif isinstance(value, str) and (is_secret_name(name) or key in configuration.masked):
            yield value
