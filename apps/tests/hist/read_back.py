"""Reads an interval log with HdrHistogram's Python package and prints what it finds, as JSON.

Usage: read_back.py LOG.hlog PERCENTILE...

Of each tag, all intervals added up: count, min, max, the values at the percentiles, and every recorded value with the
number of values up to it.
"""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

LOWEST, HIGHEST, DIGITS = 1, 60_000_000_000, 3


def main():
    log, percentiles = sys.argv[1], [float(text) for text in sys.argv[2:]]
    reader = HistogramLogReader(log, HdrHistogram(LOWEST, HIGHEST, DIGITS))
    tags, intervals = {}, []
    while True:
        interval = reader.get_next_interval_histogram()
        if interval is None:
            break
        milliseconds = interval.get_end_time_stamp() - interval.get_start_time_stamp()
        intervals.append([interval.get_tag(), round(milliseconds)])
        total = tags.setdefault(interval.get_tag(), HdrHistogram(LOWEST, HIGHEST, DIGITS))
        total.add(interval)
    reader.close()
    found = {tag: describe(total, percentiles) for tag, total in tags.items()}
    json.dump({"intervals": intervals, "tags": found}, sys.stdout)


def describe(histogram, percentiles):
    recorded = histogram.get_recorded_iterator()
    return {
        "count": histogram.get_total_count(),
        "min": histogram.get_min_value(),
        "max": histogram.get_max_value(),
        "percentiles": [histogram.get_value_at_percentile(percentile) for percentile in percentiles],
        "recorded": [[step.value_iterated_to, step.total_count_to_this_value] for step in recorded],
    }


main()
