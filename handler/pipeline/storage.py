"""What uploads are made by, for callers' targets and for the operator's own storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from handler.payload import invalid_payload, refuse_misspelt
from handler.records import TARGET_KINDS
from handler.settings import SettingsError
from handler.transfer.threads import Threads

if TYPE_CHECKING:
    from handler.delivery.delivery import OnStored
    from handler.delivery.providers import Providers
    from handler.settings import Settings
    from handler.targets import Target

LINK_S = 86_400
"""How long the links of what OUTPUT_STORAGE holds are good: a caller may have no keys of it."""

_KINDS = tuple(kind for kind in TARGET_KINDS if kind != "presigned")


class UploadProviders:
    """Gives what uploads are made by; its code loads with the first request that has a target.

    Attributes:
        storage: where results go that an answer cannot hold; None where none is set.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        backoff_s: float = 1.0,
        on_stored: OnStored | None = None,
    ) -> None:
        """Read OUTPUT_STORAGE.

        Args:
            backoff_s: wait before the second try of an upload.
            on_stored: told of each file that is stored, see `Delivery`.

        Raises:
            SettingsError: it is no upload object; told without its values, which may be secret.
        """
        self.storage = output_storage(settings)
        self._settings = settings
        self._backoff_s = backoff_s
        self._on_stored = on_stored
        self._threads = Threads()
        self._callers: Providers | None = None
        self._operators: Providers | None = None
        self._left: list[Providers] = []

    def __call__(self) -> Providers:
        """Give the one for callers' targets, which are held to the address policy."""
        if self._callers is None:
            self._callers = self._made(operator=False)
        return self._callers

    def operators(self) -> Providers:
        """Give the one for `storage`, which may lead anywhere."""
        if self._operators is None:
            self._operators = self._made(operator=True)
        return self._operators

    def _made(self, *, operator: bool) -> Providers:
        from handler.delivery.providers import Providers, provider_settings
        from handler.inputs.address import AddressPolicy
        from handler.transfer.operator import caller_policy

        made = provider_settings(self._settings)
        made = replace(made, limits=replace(made.limits, backoff_s=self._backoff_s))
        policy = caller_policy(self._settings)
        if operator:
            folder = getattr(self.storage, "path", None)
            sources = replace(made.sources, s3_reserved="")
            volumes = (Path(folder),) if folder else ()
            made = replace(made, sources=sources, volumes=volumes, state_folders=())
            policy = AddressPolicy("*")
        return Providers(made, policy, self._threads, on_stored=self._on_stored)

    def renew(self, settings: Settings | None = None) -> None:
        """Use no connection, token or client again; uploads under way keep theirs.

        Args:
            settings: read again; None where they are as they were.

        Raises:
            SettingsError: OUTPUT_STORAGE is no upload object.
        """
        if settings is not None:
            self.storage, self._settings = output_storage(settings), settings
        self._left += [made for made in (self._callers, self._operators) if made is not None]
        self._callers = self._operators = None

    async def hang_up(self) -> None:
        """Close what `renew` has left: uploads that are still under way there fail."""
        left, self._left = self._left, []
        for made in left:
            await made.close()

    async def close(self) -> None:
        """Close what the uploads shared; more than once is fine."""
        self.renew()
        await self.hang_up()
        self._threads.close()


def output_storage(settings: Settings) -> Target | None:
    """Read OUTPUT_STORAGE: one upload object, as a payload has it.

    Raises:
        SettingsError: it is none.
    """
    if not settings.output_storage:
        return None
    try:
        raw = orjson.loads(settings.output_storage)
    except orjson.JSONDecodeError as fault:
        raise SettingsError(f"OUTPUT_STORAGE is no JSON: {fault}") from None
    if not isinstance(raw, dict) or len(raw) != 1:
        example = '{"s3": {"bucket": "results"}}'
        raise SettingsError(f"OUTPUT_STORAGE names one upload object, as in {example}")
    return _linked(_target(raw), settings)


def _target(raw: dict[str, Any]) -> Target:
    from handler.errors import InvalidPayload
    from handler.targets import Targets

    try:
        refuse_misspelt(raw, _KINDS)
        (kind,) = raw
        found = Targets.model_validate(raw).targets() if kind in _KINDS else []
    except ValidationError as error:
        raise SettingsError(f"OUTPUT_STORAGE: {invalid_payload(error).message}") from None
    except InvalidPayload as fault:
        raise SettingsError(f"OUTPUT_STORAGE: {fault.message}: {fault.hint}") from None
    if not found:
        raise SettingsError(f"OUTPUT_STORAGE is one of {', '.join(_KINDS)}, not {kind[:80]}")
    return found[0]


def _linked(target: Target, settings: Settings) -> Target:
    """Ask for links that anybody can fetch, where there is something to sign them with."""
    from handler.credentials import S3Auth
    from handler.targets import AzureTarget, GcsTarget, S3Target

    match target:
        case S3Target(presign_s=None) | GcsTarget(presign_s=None, auth=S3Auth()):
            signs = True
        case AzureTarget(presign_s=None, auth=None):
            whole = settings.azure_connection or ""
            signs = "AccountKey=" in whole if whole else bool(settings.azure_key)
        case AzureTarget(presign_s=None, auth=auth) if auth is not None:
            text = auth.connection_string.get_secret_value() if auth.connection_string else ""
            signs = "AccountKey=" in text if text else auth.key is not None
        case _:
            signs = False
    return target.model_copy(update={"presign_s": LINK_S}) if signs else target
