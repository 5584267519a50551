"""From a request of ours to the actions that AWS evaluates for it, with their resources and condition keys. Pure.

Rules:
1. A request is allowed if all its actions are. What is sent is what `storage/backends/s3.py` sends.
2. A read also asks whether the prefix may be listed: S3 says "absent" only to whoever may, else "denied"; and the
   prefix that it asks for is the key.
   Source: "GetObject", https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html (404 or 403); that the key is
   the prefix is not in AWS's documents: https://github.com/ceph/ceph/pull/68577 ("to match aws behavior").
3. A replacement reads what it replaces.
   Source: "How to prevent object overwrites with conditional writes",
   https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html (s3:GetObject with If-Match)
4. The steps of a multipart upload are writes that create no object and take no condition; its completion does both. An
   upload that fails is given up.
   Source: "Enforce conditional writes on Amazon S3 buckets",
   https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes-enforce.html

    for one in aws_requests("put-create", "agents/default/heads/ab/s1", bucket="b", principal=arn_of("WriterRole")):
        print(one.action, one.resource, one.context)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from infra.policies.evaluator import AwsRequest

VERSION_READ = "9a0364b9e99bb480dd25e1f0284c8555"  # an ETag as any other
REQUESTS = (
    *("get", "stat", "list", "put-create", "put-replace", "put-overwrite", "put-parts"),
    *("delete", "list-uploads", "abort-upload"),
)
_CREATES = {"s3:ObjectCreationOperation": "true"}
_IF_ABSENT = {**_CREATES, "s3:if-none-match": "*"}
_IF_SAME = {**_CREATES, "s3:if-match": VERSION_READ}
_STEP = {"s3:ObjectCreationOperation": "false"}
# Actions on the object itself: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
_ON_OBJECT: Mapping[str, tuple[tuple[str, Mapping[str, str]], ...]] = {
    "get": (("s3:GetObject", {}),),
    "stat": (("s3:GetObject", {}),),
    "put-create": (("s3:PutObject", _IF_ABSENT),),
    "put-replace": (("s3:PutObject", _IF_SAME), ("s3:GetObject", {})),
    "put-overwrite": (("s3:PutObject", _CREATES),),
    "put-parts": (("s3:PutObject", _STEP), ("s3:PutObject", _IF_ABSENT), ("s3:AbortMultipartUpload", {})),
    "delete": (("s3:DeleteObject", {}),),  # also of many: one for each key
    "abort-upload": (("s3:AbortMultipartUpload", {}),),
}


@lru_cache(maxsize=1 << 14)
def aws_requests(
    request: str, key: str, *, bucket: str, principal: str, encrypted: bool = True
) -> tuple[AwsRequest, ...]:
    """Return the actions of one request of ours.

    Args:
        request: One of `REQUESTS`.
        key: The whole key in the bucket; of a listing the prefix.
        bucket: Its name.
        principal: The ARN of the role or user who sends it.
        encrypted: Whether it is sent by TLS.

    Raises:
        KeyError: No such request.
    """
    common = {"aws:SecureTransport": str(encrypted).lower(), "aws:PrincipalArn": principal}
    bucket_arn = f"arn:aws:s3:::{bucket}"
    listing = AwsRequest("s3:ListBucket", bucket_arn, principal, {**common, "s3:prefix": key})
    if request == "list":
        return (listing,)
    if request == "list-uploads":  # S3 documents no condition key for its prefix
        return (AwsRequest("s3:ListBucketMultipartUploads", bucket_arn, principal, common),)
    own = tuple(
        AwsRequest(action, f"{bucket_arn}/{key}", principal, {**common, **context})
        for action, context in _ON_OBJECT[request]
    )
    return (*own, listing) if request in ("get", "stat") else own


def action_on(action: str, resource: str, *, principal: str, encrypted: bool = True) -> AwsRequest:
    """Return a request that the software never sends: one action on a resource, by its ARN."""
    return AwsRequest(
        action, resource, principal, {"aws:SecureTransport": str(encrypted).lower(), "aws:PrincipalArn": principal}
    )
