"""This project with a meter provider that collects every second: python metered.py"""

import os

from my_websocket_app.__main__ import main
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

with open(os.devnull, "w") as nowhere:
    exporter = ConsoleMetricExporter(out=nowhere)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=1000)
    set_meter_provider(MeterProvider([reader]))
    main()
