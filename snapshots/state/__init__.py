"""The models of a session: what a commit splits into blobs and a load gives back. Pure values, no storage.

Rules:
1. Values are frozen and refuse unknown fields; `PersistedSessionState` and `SessionGraph` are the mutable ones.
2. Every value round-trips through plain data (`model_dump()`, `model_validate`) and through JSON.
3. Ids and times that a method must invent come from a clock of its own, nothing else here is impure.

    state = PersistedSessionState(session_id="s1")
    message = Message(id="m1", role="User", parts=[Part(id="m1.p0", kind="Text", content="hi")])
    state.append_active_read_delta([message], [])
"""

from snapshots.state.appended import AppendedNodes, StaleBranch
from snapshots.state.envelope import ChronologicalEntry, SessionReadView, SessionStateEnvelope
from snapshots.state.graph import LeafHealing, SessionGraph
from snapshots.state.ledger import CHILD_SOURCE, TokenLedgerEntry, diff_token_ledger, merge_ledger_entry
from snapshots.state.message_tree import MessageTree, SessionMessageTreeNode
from snapshots.state.messages import (
    AttachmentRef,
    Deleted,
    DeletedContent,
    Message,
    MessageOrigin,
    MessageRole,
    Part,
    PartAttachment,
    PartKind,
    PruneState,
    Summarized,
    SummarizedContent,
)
from snapshots.state.modes import STANDARD_MODE, ExecutionMode, ModeEvent, ModeTurnOptions
from snapshots.state.node_table import NodeSequence
from snapshots.state.nodes import (
    EventPayload,
    PluginPayload,
    SessionEvent,
    SessionNodeRecord,
    ToolInvocation,
    nodes_from_plain,
    nodes_to_plain,
)
from snapshots.state.plugin_session import Plugin, PluginFailure, PluginSession
from snapshots.state.plugins import (
    PluginArtifact,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    PluginSnapshotReader,
    PluginSnapshotWriter,
)
from snapshots.state.policy import (
    ObservationalMemory,
    PersistedSessionConfig,
    PromptLayer,
    RollingHistory,
    SessionPolicy,
    StandardContextApproach,
)
from snapshots.state.report import SessionUsageReport, UsageReportRow, UsageTotals, diff_usage_reports
from snapshots.state.result import CommitManifest, CommitResult, RuntimeCommitResult
from snapshots.state.resume import ResumeFinding, ResumeReport
from snapshots.state.session_state import PersistedSessionState
from snapshots.state.sessions import (
    ROOT,
    ChildRelation,
    HandoffRelation,
    RootRelation,
    SessionMeta,
    SessionPickerInfo,
    SessionRelation,
    relation_from_plain,
    relation_parent,
)
from snapshots.state.tool_calls import (
    Cancelled,
    ExhaustedRetry,
    Fail,
    Failure,
    Finish,
    NeverRetry,
    SafeRetry,
    Success,
    SwitchAgentFrame,
    ToolCallOutput,
    ToolCallRecord,
    ToolCancellation,
    ToolControl,
    ToolFailure,
    ToolRetryDisposition,
)
from snapshots.state.tool_registry import ToolRegistry, ToolSource, ToolStateRefusedError
from snapshots.state.tool_values import ToolValue
from snapshots.state.tools import (
    MaterializeProjectedValues,
    PreserveProjectedRefs,
    ToolAvailabilityConfig,
    ToolDiscovery,
    ToolEntry,
    ToolManifest,
    ToolRetryPolicy,
    ToolState,
)
from snapshots.state.turn import PersistedTurnState
from snapshots.state.usage import PromptUsage, TokenUsage, normalize_prompt_usage
from storage.digest import BlobRef

__all__ = [
    "CHILD_SOURCE",
    "ROOT",
    "STANDARD_MODE",
    "AppendedNodes",
    "AttachmentRef",
    "BlobRef",
    "Cancelled",
    "ChildRelation",
    "ChronologicalEntry",
    "CommitManifest",
    "CommitResult",
    "Deleted",
    "DeletedContent",
    "EventPayload",
    "ExecutionMode",
    "ExhaustedRetry",
    "Fail",
    "Failure",
    "Finish",
    "HandoffRelation",
    "LeafHealing",
    "MaterializeProjectedValues",
    "Message",
    "MessageOrigin",
    "MessageRole",
    "MessageTree",
    "ModeEvent",
    "ModeTurnOptions",
    "NeverRetry",
    "NodeSequence",
    "ObservationalMemory",
    "Part",
    "PartAttachment",
    "PartKind",
    "PersistedSessionConfig",
    "PersistedSessionState",
    "PersistedTurnState",
    "Plugin",
    "PluginArtifact",
    "PluginFailure",
    "PluginPayload",
    "PluginSession",
    "PluginSessionSnapshot",
    "PluginSnapshot",
    "PluginSnapshotMeta",
    "PluginSnapshotReader",
    "PluginSnapshotWriter",
    "PreserveProjectedRefs",
    "PromptLayer",
    "PromptUsage",
    "PruneState",
    "ResumeFinding",
    "ResumeReport",
    "RollingHistory",
    "RootRelation",
    "RuntimeCommitResult",
    "SafeRetry",
    "SessionEvent",
    "SessionGraph",
    "SessionMessageTreeNode",
    "SessionMeta",
    "SessionNodeRecord",
    "SessionPickerInfo",
    "SessionPolicy",
    "SessionReadView",
    "SessionRelation",
    "SessionStateEnvelope",
    "SessionUsageReport",
    "StaleBranch",
    "StandardContextApproach",
    "Success",
    "Summarized",
    "SummarizedContent",
    "SwitchAgentFrame",
    "TokenLedgerEntry",
    "TokenUsage",
    "ToolAvailabilityConfig",
    "ToolCallOutput",
    "ToolCallRecord",
    "ToolCancellation",
    "ToolControl",
    "ToolDiscovery",
    "ToolEntry",
    "ToolFailure",
    "ToolInvocation",
    "ToolManifest",
    "ToolRegistry",
    "ToolRetryDisposition",
    "ToolRetryPolicy",
    "ToolSource",
    "ToolState",
    "ToolStateRefusedError",
    "ToolValue",
    "UsageReportRow",
    "UsageTotals",
    "diff_token_ledger",
    "diff_usage_reports",
    "merge_ledger_entry",
    "nodes_from_plain",
    "nodes_to_plain",
    "normalize_prompt_usage",
    "relation_from_plain",
    "relation_parent",
]
