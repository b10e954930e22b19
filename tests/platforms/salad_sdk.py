"""The real salad-cloud-sdk; its import warns of escapes in its own source."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from salad_cloud_sdk import SaladCloudSdk
    from salad_cloud_sdk.models import (
        ContainerGroupCreationRequest,
        ContainerGroupPatch,
        QueuePrototype,
    )

__all__ = [
    "ContainerGroupCreationRequest",
    "ContainerGroupPatch",
    "QueuePrototype",
    "SaladCloudSdk",
]
