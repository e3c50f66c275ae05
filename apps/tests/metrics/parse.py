"""Reads a page of metrics from standard input as Prometheus does, which is strict; prints each family with its type."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    families[family.name] = family.type
    if family.type == "histogram":
        # Each label set's last bucket holds as many values as its count says.
        ends = {s.labels["latency"]: s.value for s in family.samples if s.labels.get("le") == "+Inf"}
        counts = {s.labels["latency"]: s.value for s in family.samples if s.name.endswith("_count")}
        assert ends == counts and counts, (ends, counts)
json.dump(families, sys.stdout)
