"""A text that must not be shown by accident. Standard library only; pydantic is imported when a model asks for the schema."""

from __future__ import annotations

from typing import Any, NoReturn

MASK = "***"
SECRET_NAMES = frozenset({"password", "token", "secret", "passphrase"})


class Secret:
    """Holds a password or token. `repr`, `str` and format give `***`; `reveal()` gives the text.

    Never leaves the process by accident: pickling raises TypeError, `json` does not know it, `asdict` and copies keep the mask.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a secret is text, not {type(text).__name__}")
        self.__text = text

    def reveal(self) -> str:
        """The text itself."""
        return self.__text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        import hmac  # brings OpenSSL along: 5 ms of every `import mqsdk`

        return hmac.compare_digest(self.__text.encode(errors="surrogatepass"), other.__text.encode(errors="surrogatepass"))

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            _as_secret, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )


def _as_secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text: put it into quotes")
    return Secret(value)


def is_secret_name(name: object) -> bool:
    """Whether a key of this name holds a secret: `password`, `sasl_password`, `token`."""
    return isinstance(name, str) and any(name.lower() == secret or name.lower().endswith("_" + secret) for secret in SECRET_NAMES)
