"""Session records: which provider and model a session belongs to, how long it lives, and what it has sent.

from snapshots.records import SessionRecords, reap

records = SessionRecords(repo)
records.create("s1", provider_id="openai", model="gpt-5", ttl_secs=3600)
records.activate("s1")
records.record_delta("s1", 120)
reap(repo)
"""

from snapshots.records.reaper import DueRecord, ReapPlan, ReapReport, plan_reap, reap
from snapshots.records.record import SessionRecord, SessionStatus, StoredRecord
from snapshots.records.scan import DamagedRecord, MovedRecord, RecordListing
from snapshots.records.store import SessionRecords

__all__ = [
    "DamagedRecord",
    "DueRecord",
    "MovedRecord",
    "ReapPlan",
    "ReapReport",
    "RecordListing",
    "SessionRecord",
    "SessionRecords",
    "SessionStatus",
    "StoredRecord",
    "plan_reap",
    "reap",
]
