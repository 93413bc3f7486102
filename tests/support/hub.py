"""A model hub on a `RangeServer`: what huggingface_hub asks for, for the files a test publishes."""

import hashlib
import json
from typing import Any

from tests.support.range_server import RangeServer


def publish(
    server: RangeServer,
    repository: str,
    files: dict[str, bytes],
    *,
    revision: str = "main",
    lfs: bool = True,
    **more: Any,
) -> str:
    """Put a repository on the server; returns its commit."""
    sha = hashlib.sha1(json.dumps([repository, revision, *sorted(files)]).encode()).hexdigest()
    siblings = []
    for path, content in files.items():
        sibling: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
        if lfs:
            sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        siblings.append(sibling)
        server.files[f"/{repository}/resolve/{sha}/{path}"] = content
    info = {
        "id": repository, "modelId": repository, "sha": sha, "private": False, "gated": False, "downloads": 7,
        "tags": [], "pipeline_tag": "image-classification", "cardData": {"license": "apache-2.0"},
        "siblings": siblings, **more,
    }  # fmt: skip
    for path in [f"/api/models/{repository}/revision/{revision}", f"/api/models/{repository}/revision/{sha}"]:
        server.files[path] = json.dumps(info).encode()
    if revision == "main":
        server.files[f"/api/models/{repository}"] = json.dumps(info).encode()
        server.files["/api/models"] = json.dumps([info]).encode()
    return sha
