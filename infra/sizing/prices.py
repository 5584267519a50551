"""What stores charge, in US dollars, each with where it was read and when.

Rules:
1. A price stands here only if it was read somewhere public. What could not be read is not here: neither are free tiers,
   discounts by volume, and what networks between clouds cost.
2. Deletions of many are counted as writes: providers that do not charge for DELETE do not all say that of the request
   that deletes a thousand. It is one in a thousand of the packs deleted.
3. Prices change. These are for comparing and sizing; the provider's own page is what counts.

    bill(Counts(put=1000), PRICES["s3"])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.sizing.counts import Counts

READ_AT = "2026-11-22"  # the day on which all of these were looked up; a page may have been older
GIB, GB = 1 << 30, 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """What one store charges.

    Attributes:
        name: Of the store and its class.
        write: US dollars for 1,000 requests that write or list.
        read: US dollars for 1,000 requests that read.
        month: US dollars for one gigabyte that lies there for a month.
        out: US dollars for one gigabyte that leaves for the internet, the first tier.
        upload: US dollars for one gigabyte written.
        retrieval: US dollars for one gigabyte read.
        gigabyte: How many bytes it counts as one.
        sources: Where this was read.
        remark: What to know of it here.
    """

    name: str
    write: float
    read: float
    month: float
    out: float
    sources: tuple[str, ...]
    upload: float = 0.0
    retrieval: float = 0.0
    gigabyte: int = GB
    remark: str = ""


PRICES: Mapping[str, Price] = {
    "s3": Price(
        name="AWS S3 Standard, us-east-1",
        write=0.005,
        read=0.0004,
        month=0.023,
        out=0.09,
        gigabyte=GIB,
        sources=(
            "https://devnotes.tech/understanding-aws-s3-pricing-a-complete-cost-breakdown-with-examples",
            "https://wring.co/blog/aws-data-transfer-pricing-guide",
            "http://aws.amazon.com/s3/faqs/",
        ),
        remark="to machines in the same region nothing; read at others', as AWS's own page could not be read",
    ),
    "s3-express": Price(
        name="AWS S3 Express One Zone, us-east-1",
        write=0.00113,
        read=0.00003,
        month=0.11,
        out=0.09,
        upload=0.0032,
        retrieval=0.0006,
        gigabyte=GIB,
        sources=(
            "https://aws.amazon.com/s3/faqs/ (in a mirror)",
            "https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html",
        ),
        remark="for comparison alone: its listings are in no order, which collections and copies rely on",
    ),
    "r2": Price(
        name="Cloudflare R2 Standard",
        write=0.0045,
        read=0.00036,
        month=0.015,
        out=0.0,
        sources=(
            "https://raw.githubusercontent.com/cloudflare/cloudflare-docs/production/src/content/docs/r2/pricing.mdx",
            "https://raw.githubusercontent.com/cloudflare/cloudflare-docs/production/src/content/docs/r2/platform/"
            "limits.mdx",
        ),
        remark="one write of the same key per second: a session commits no faster",
    ),
    "gcs": Price(
        name="Google Cloud Storage Standard, one region",
        write=0.005,
        read=0.0004,
        month=0.02,
        out=0.12,
        gigabyte=GIB,
        sources=("api-evangelist/gcp-cloud-storage plans/gcp-cloud-storage-plans-pricing.yml (read there 2026-09-20)",),
        remark="0.000027397 per GiB and hour, 730 hours; about one write of the same object per second",
    ),
    "tigris": Price(
        name="Tigris Standard",
        write=0.005,
        read=0.0005,
        month=0.02,
        out=0.0,
        sources=("api-evangelist/tigris-data finops/tigris-data-finops.yml (read there 2026-06-20)",),
    ),
}


def bill(counts: Counts, price: Price, *, out_share: float = 0.0) -> float:
    """Return what requests and bytes cost, in US dollars.

    Args:
        counts: Requests and bytes.
        price: Of the store.
        out_share: Which share of the bytes read leaves for the internet, 0 to 1.
    """
    written = counts.put + counts.list + counts.delete_many
    requests = (written * price.write + (counts.get + counts.stat) * price.read) / 1000
    moved = counts.bytes_out * price.upload + counts.bytes_in * (price.retrieval + out_share * price.out)
    return requests + moved / price.gigabyte


def month_of(stored_bytes: float, price: Price) -> float:
    """Return what bytes cost that lie in a store for a month, in US dollars."""
    return stored_bytes / price.gigabyte * price.month
