"""What the application has recorded, by OpenTelemetry's own SDK."""

from collections.abc import Iterator
from typing import Any

from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

READER = InMemoryMetricReader()
set_meter_provider(MeterProvider([READER]))  # which can be done once in a process


def points() -> Iterator[tuple[str, Any]]:
    """Yield all metrics by their names, and their points."""
    data = READER.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield from ((metric.name, point) for point in metric.data.data_points)


def values(name: str, **attributes: object) -> list[Any]:
    """Return the points of a metric with these attributes, `_` for dots."""
    expected = {key.replace("_", "."): value for key, value in attributes.items()}
    return [
        point
        for found, point in points()
        if found == name and expected.items() <= dict(point.attributes or {}).items()
    ]
