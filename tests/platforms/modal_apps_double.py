"""The stand-in for Modal's servers, with a memory of what was deployed: for `comfyfn deploy`."""

from __future__ import annotations

from typing import Any

from modal_proto import api_pb2
from platforms.modal_double import ModalDouble


class ModalApps(ModalDouble):
    """Adds the list of apps and their histories.

    Attributes:
        served: ids by name, of those that are served.
        tags: of each app's deployments, the newest first.
    """

    def __init__(self, home: Any) -> None:
        super().__init__(home)
        self.served: dict[str, str] = {}
        self.tags: dict[str, list[str]] = {}

    def do_AppGetByDeploymentName(self, request: Any) -> Any:  # noqa: N802
        app_id = self.served.get(request.name, "")
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app_id, environment_name="main")

    def do_AppPublish(self, request: Any) -> Any:  # noqa: N802
        self.served[request.name] = request.app_id
        self.tags.setdefault(request.app_id, []).insert(0, request.deployment_tag)
        return super().do_AppPublish(request)

    def do_AppList(self, _: Any) -> Any:  # noqa: N802
        item = api_pb2.AppListResponse.AppListItem
        state = api_pb2.APP_STATE_DEPLOYED
        apps = [
            item(app_id=key, description=name, state=state) for name, key in self.served.items()
        ]
        stopped = item(app_id="ap-old", description="sdxl", state=api_pb2.APP_STATE_STOPPED)
        return api_pb2.AppListResponse(apps=[*apps, stopped])

    def do_AppDeploymentHistory(self, request: Any) -> Any:  # noqa: N802
        tags = self.tags.get(request.app_id, [])
        entries = [
            api_pb2.AppDeploymentHistory(app_id=request.app_id, version=len(tags) - at, tag=tag)
            for at, tag in enumerate(tags)
        ]
        return api_pb2.AppDeploymentHistoryResponse(app_deployment_histories=entries)

    def do_AppGetLayout(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.AppGetLayoutResponse()
