"""Sealed text: what can be read by anyone, and written by those alone who have the key.

Owns the form: HMAC-SHA256 in hexadecimal over the text's name and the text, a blank, the text.
"""

import hmac


def seal(key: bytes, name: str, text: str) -> bytes:
    """The text, so that `unseal` takes it under this name alone."""
    return f"{_tag(key, name, text)} {text}".encode()


def unseal(key: bytes, name: str, sealed: bytes) -> str | None:
    """The text that was sealed under this name; None if it was not, by this key."""
    try:
        tag, _, text = sealed.decode().partition(" ")
    except UnicodeDecodeError:
        return None
    is_ours = hmac.compare_digest(tag.encode(), _tag(key, name, text).encode())
    return text if is_ours else None


def _tag(key: bytes, name: str, text: str) -> str:
    return hmac.digest(key, f"{name}\0{text}".encode(), "sha256").hex()
