"""What must be kept secret on disk: encrypted under a key made of WEBHOOK_SECRET."""

from __future__ import annotations

import base64
import binascii
import os
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_PURPOSE = b"comfyfn outbox 1"
_NONCE_BYTES = 12


class Unsealable(Exception):
    """The text was sealed under another secret, for another letter, or was changed."""


class Seal:
    """Encrypts and decrypts small texts, by AES-256-GCM.

    Args:
        secret: WEBHOOK_SECRET as it is set.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "<Seal>"

    @cached_property
    def _cipher(self) -> AESGCM:
        # Loaded on first use: most letters of most servers have nothing to be sealed.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE)
        return AESGCM(derive.derive(self._secret.encode()))

    def close(self, text: bytes, about: str) -> str:
        """Seal a text.

        Args:
            about: what it belongs to; it can be opened for the same only.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, text, about.encode())).decode()

    def open(self, sealed: str, about: str) -> bytes:
        """Give the text that was sealed.

        Raises:
            Unsealable: it is not ours.
        """
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b64decode(sealed, validate=True)
            nonce, hidden = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, hidden, about.encode())
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise Unsealable("sealed under another WEBHOOK_SECRET") from error
