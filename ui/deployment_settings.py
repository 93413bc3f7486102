"""Settings of a deployment as a person edits them, and back to a declaration. Pure."""

from dataclasses import dataclass, replace

import msgspec

from app.schema.manage import Deployment, DeploymentSpec, RouteSample
from ui.words import is_language


@dataclass(frozen=True)
class Setting:
    """``key`` of the deployment's settings, or ``replicas``. Empty leaves it to the daemon, which then does as
    ``otherwise`` says."""

    key: str
    name: str
    otherwise: str
    least: int
    most: int


CACHE = "response_cache"
BATCH = Setting("max_batch_size", "Rows of a batch at most", "32", 1, 4096)
DELAY = Setting("max_queue_delay_us", "Wait for more rows, µs", "learned", 0, 10_000_000)
REPLICAS = Setting("replicas", "Instances", "1", 1, 64)
SEQUENCES = Setting("sequences", "Sequences at once", "8", 1, 256)


def editable(deployment: Deployment, sample: RouteSample | None) -> list[Setting]:
    """Those that matter for it; a pipeline has none."""
    if deployment.spec.pipeline is not None:
        return []
    if is_language(deployment):
        return [SEQUENCES, REPLICAS]
    learned = sample.learned_delay_us if sample is not None else None
    now = f"learned, {learned} now" if learned is not None else "learned"
    return [BATCH, replace(DELAY, otherwise=now), REPLICAS]


def texts(spec: DeploymentSpec) -> dict[str, str]:
    """What is set, by key, as it stands in a field."""
    told = {key: str(value) for key, value in spec.settings.items()}
    told["replicas"] = str(spec.replicas) if spec.replicas != 1 else told.pop("instances", "")
    return told


class Refused(ValueError):
    """``key`` is the setting at fault."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def changed(spec: DeploymentSpec, fields: list[Setting], given: dict[str, str], cache: bool) -> DeploymentSpec:
    """The declaration with what was typed; all else stays. Raises `Refused`."""
    settings = {key: value for key, value in spec.settings.items() if key not in {"instances", CACHE}}
    replicas = spec.replicas
    for field in fields:
        text = given.get(field.key, "").strip()
        if field.key != "replicas":
            settings.pop(field.key, None)
        if not text:
            replicas = 1 if field.key == "replicas" else replicas
            continue
        if not text.isdecimal() or not field.least <= int(text) <= field.most:
            raise Refused(field.key, f"A whole number from {field.least:,} to {field.most:,}.")
        if field.key == "replicas":
            replicas = int(text)
        else:
            settings[field.key] = int(text)
    if cache:
        settings[CACHE] = True
    return msgspec.structs.replace(spec, settings=settings, replicas=replicas)
