"""Health, metrics and the description of the API itself."""

import time
from collections import Counter
from collections.abc import Callable

import app
from app.api import openapi
from app.api.http import Request, Response, Route, json
from app.deployments.reconciler import Reconciler
from app.jobs.runner import Jobs
from app.monitoring import exposition
from app.monitoring.metrics import Metrics
from app.monitoring.sampler import Sampler


class Station:
    def __init__(
        self,
        metrics: Metrics,
        sampler: Sampler,
        reconciler: Reconciler,
        jobs: Jobs,
        all_routes: Callable[[], list[Route]],
    ):
        self._metrics, self._sampler, self._reconciler, self._jobs = metrics, sampler, reconciler, jobs
        self._all_routes = all_routes
        self._started = time.monotonic()

    async def live(self, request: Request) -> Response:
        return json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        return json({"status": "ready"})

    async def health(self, request: Request) -> Response:
        states = {deployment.route: deployment.state for deployment in self._reconciler.deployments()}
        return json(
            {
                "status": "ready",
                "version": app.__version__,
                "uptime_s": round(time.monotonic() - self._started, 1),
                "deployments": states,
            }
        )

    async def metrics(self, request: Request) -> Response:
        station = exposition.Station(
            version=app.__version__,
            uptime_s=time.monotonic() - self._started,
            jobs_running=sum(job.state == "running" for job in self._jobs.unfinished().values()),
            deployments=Counter(deployment.state for deployment in self._reconciler.deployments()),
            gpus=self._sampler.reading.gpus if self._sampler.reading is not None else (),
        )
        return Response(exposition.text(self._metrics, station), content_type=exposition.CONTENT_TYPE.encode())

    async def description(self, request: Request) -> Response:
        return json(openapi.document(self._all_routes(), app.__version__))

    async def docs(self, request: Request) -> Response:
        return Response(openapi.docs_page().encode(), content_type=b"text/html; charset=utf-8")

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self.health, "Health in words", "health", scope="open"),
            Route("GET", "/health/live", self.live, "Is the process alive", "health", scope="open"),
            Route("GET", "/health/ready", self.ready, "Does it accept requests", "health", scope="open"),
            Route("GET", "/metrics", self.metrics, "Prometheus metrics", "health", scope="management"),
            Route("GET", "/openapi.json", self.description, "This description", "health", scope="open"),
            Route("GET", "/docs", self.docs, "The same, to read and try", "health", scope="open"),
        ]
