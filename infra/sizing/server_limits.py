"""Limits of servers, and what they leave: prefixes and their rates, one head and its writers. Pure.

Rules:
1. A limit has its source. What follows from limits is arithmetic, and says so.

    partitions_for(100_000, S3_WRITES_PER_SECOND)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

# "at least 3,500 PUT/COPY/POST/DELETE or 5,500 GET/HEAD requests per second per partitioned Amazon S3 prefix"; a new
# partition takes 30 to 60 minutes of load. Read 2026-11-22.
# Source: https://aws.amazon.com/premiumsupport/knowledge-center/s3-object-key-naming-pattern/
S3_WRITES_PER_SECOND, S3_READS_PER_SECOND = 3500, 5500
# "smaller requests (for example, less than 512 KB), where median latencies are often in the tens of milliseconds
# range". Read 2026-11-22; 30 is what these tables take of it.
# Source: AWS whitepaper "Best Practices Design Patterns: Optimizing Amazon S3 Performance", timeouts and retries,
# https://docs.aws.amazon.com/whitepapers/latest/s3-optimizing-performance-best-practices/
LATENCY_SECONDS = 0.030


def partitions_for(per_second: float, limit: int) -> int:
    """Return how many partitions of a bucket so many requests per second need, spread evenly."""
    return max(1, math.ceil(per_second / limit))


def hottest_share(before: Sequence[str], now: Sequence[str], partitions: int) -> float:
    """Return the share of new keys that falls into one partition, of those that the former keys led to.

    Args:
        before: Keys that were written until now; partitions are cut so that each had as many of them.
        now: Keys that are written now.
        partitions: How many.
    """
    ordered = sorted(before)
    cuts = [ordered[number * len(ordered) // partitions] for number in range(1, partitions)]
    return max(Counter(bisect_right(cuts, key) for key in now).values()) / len(now)


def attempts_at(others_per_second: float, window_seconds: float) -> float:
    """Return the attempts per commit of a stranger among others who write the same head at random times.

    An attempt is lost if another commit lands between its read and its write; with commits at random times none does
    with the probability exp(-rate * window). Writers that never rest meet more often: then their number bounds it, as
    of all attempts under way at once one comes through.

    Args:
        others_per_second: Commits of others that come through.
        window_seconds: From the read of the head to the write's landing.
    """
    return math.exp(others_per_second * window_seconds)
