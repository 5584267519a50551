"""The history of a session: a tree of nodes, and the leaf that the conversation stands at.

Rules:
1. Nodes are only added; a change of history is a new branch and another leaf. `remove_nodes` and `vacuum` are the
   exceptions. What `tombstone_nodes` hides, no read shows; what is then left visible is a whole graph.
2. The *active path* leads from a root to the leaf. An unknown leaf has an empty one (`heal_orphaned_leaf` mends that);
   a missing parent or a cycle is an error, never a shorter history.
3. `set_leaf_node_id`, `push_node_record`, `extend_node_records` and `extend_active_path` are raw: they store what they
   are given, so that a damaged graph can be held, checked and healed. Everything else keeps the graph valid.
4. The graph knows what of it is committed: `nodes[:committed_count]` stand in the last revision, `only_appended` says
   whether nothing but appending has happened since. Reading, appending and checking cost what is new.

    graph = SessionGraph()
    graph.append_message(message)
    graph.append_active_read_delta(messages, tool_calls)   # only what is not there yet
    graph.branch_to("m1")                                  # go on from an earlier message
    graph.tombstone_nodes(graph.orphaned_node_ids())       # hide the rest; `vacuum` removes it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self, overload

from pydantic import GetCoreSchemaHandler, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from snapshots.errors import InvalidStateError
from snapshots.state.active_path import ActivePath
from snapshots.state.appended import AppendedNodes, StaleBranch
from snapshots.state.message_tree import MessageTree, build_message_tree
from snapshots.state.messages import Message
from snapshots.state.modes import ModeEvent
from snapshots.state.node_ids import message_node_id, tool_node_id
from snapshots.state.node_table import NodeSequence, NodeTable
from snapshots.state.nodes import (
    EventPayload,
    PluginPayload,
    SessionEvent,
    SessionNodeRecord,
    ToolInvocation,
    nodes_from_plain,
    nodes_to_plain,
)
from snapshots.state.replacement import plan_replacement, wanted_items
from snapshots.state.resume import ResumeFinding, ResumeReport
from snapshots.state.tool_calls import ToolCallRecord
from snapshots.state.values import Items, Value, omit_empty, omit_none, rfc3339
from storage.clock import Clock, SystemClock

__all__ = ["LeafHealing", "NodeSequence", "SessionGraph", "nodes_from_plain", "nodes_to_plain"]

SessionItem = Message | ModeEvent | PluginPayload

_clock: Clock = SystemClock()


class LeafHealing(Value):
    """What `heal_orphaned_leaf` did; true if it moved the leaf.

    Attributes:
        rule: `sound`: the leaf was there. `ancestor`: the nearest surviving ancestor of the lost leaf.
            `newest_message`: nothing is known of the lost leaf. `empty`: there is no message either.
        lost_leaf_node_id: The leaf that was not in the graph.
        leaf_node_id: The leaf now.
    """

    rule: Literal["sound", "ancestor", "newest_message", "empty"]
    lost_leaf_node_id: str | None = omit_none()
    leaf_node_id: str | None = omit_none()

    def __bool__(self) -> bool:
        return self.rule != "sound"

    def report(self) -> ResumeReport:
        """Return it as the finding of a resume."""
        if not self:
            return ResumeReport()
        reason = f"the leaf was not in the graph; {self.leaf_node_id!r} took its place ({self.rule})"
        return ResumeReport(healed=(ResumeFinding(kind="leaf", name=self.lost_leaf_node_id or "", reason=reason),))


class _GraphWire(Value):
    nodes: Items[SessionNodeRecord] = ()
    leaf_node_id: str | None = omit_none()
    tombstoned_node_ids: Items[str] = omit_empty(tuple)


class SessionGraph(NodeTable):
    """All branches of a session's history, and where the conversation stands. Mutable; not thread-safe."""

    __slots__ = ("_active",)

    def __init__(self) -> None:
        super().__init__()
        self._active = ActivePath()

    @classmethod
    def from_active_read_state(cls, messages: Sequence[Message], tool_calls: Sequence[ToolCallRecord]) -> SessionGraph:
        """Return a new graph whose active path shows these messages and tool calls."""
        graph = cls()
        graph.replace_active_read_state(messages, tool_calls)
        return graph

    def copy(self) -> SessionGraph:
        """Return an independent clone, with its commit bookkeeping; the frozen nodes are shared."""
        other = SessionGraph()
        self._copy_table_to(other)
        other._active = self._active.copy()
        return other

    def uncommitted_copy(self) -> SessionGraph:
        """Return an independent clone of which nothing counts as committed: the start of another session."""
        other = self.copy()
        other._committed_count = 0
        other._only_appended = True
        return other

    def __copy__(self) -> Self:
        return self.copy()  # type: ignore[return-value]  # not meant to be sub-classed

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def active_path_nodes(self) -> tuple[SessionNodeRecord, ...]:
        """Return the nodes from the root to the leaf; nothing when the leaf is unknown.

        Raises:
            InvalidStateError: A parent on the way is missing, or the parents form a cycle; the reason names the node.
        """
        return tuple(self._path().nodes)

    def active_path_contains(self, node_id: str) -> bool:
        """Whether the node lies on the active path. Raises as `active_path_nodes`."""
        return node_id in self._path().node_ids

    def active_events(self) -> tuple[SessionEvent, ...]:
        """Return all events of the active path, oldest first. Raises as `active_path_nodes`."""
        return tuple(self._path().events)

    def messages(self) -> tuple[Message, ...]:
        """Return the messages of the active path: not the transient ones, and the first of each id."""
        return tuple(self._path().messages)

    def tool_calls(self) -> tuple[ToolCallRecord, ...]:
        """Return the tool calls of the active path, oldest first."""
        return tuple(self._path().tool_calls)

    def orphaned_node_ids(self) -> tuple[str, ...]:
        """Return the ids of all visible nodes off the active path, oldest first."""
        active = self._path().node_ids
        return tuple(node.node_id for node in self.visible_nodes if node.node_id not in active)

    def message_tree(self) -> MessageTree:
        """Return the messages of all branches as a tree. Raises as `active_path_nodes`."""
        return build_message_tree(self.visible_nodes, self.find_node, self._path().node_ids)

    def user_message_count(self) -> int:
        """Return the number of user messages on all branches."""
        return sum(1 for node in self.visible_nodes if node.message is not None and node.message.role == "User")

    def first_user_message(self) -> str:
        """Return the text of the oldest user message of any branch, "" without one."""
        for node in self.visible_nodes:
            if node.message is not None and node.message.role == "User":
                return node.message.search_text()
        return ""

    def fork_current_path(self) -> SessionGraph:
        """Return a new graph of the active path alone: same node ids, same leaf, nothing committed.

        An unknown leaf stays one, with no nodes, so that `check` refuses the fork; heal the leaf first.
        Raises as `active_path_nodes`.
        """
        fork = _graph_of(self._path())
        fork._leaf_node_id = self._leaf_node_id
        return fork

    def active_path_to(self, node_id: str) -> SessionGraph:
        """Return a new graph of one node and its ancestors, root first, with the node as leaf and nothing committed.

        Raises:
            InvalidStateError: There is no such node, or it is tombstoned; or as `active_path_nodes`.
        """
        self._check_visible(node_id, "read a path to one that is")
        return _graph_of(ActivePath().follow(self.find_node, node_id, len(self._nodes)))

    def _path(self) -> ActivePath:
        self._active = self._active.follow(self.find_node, self._leaf_node_id, len(self._nodes))
        return self._active

    def append_message(self, message: Message) -> str:
        """Append a message after the leaf, which moves to it; return the node id.

        A message without an id gets a fresh one; a node id that is taken is made unique (the message keeps its id).

        Raises:
            InvalidStateError: The leaf is not in the graph; heal it first.
        """
        if not message.id:
            message = message.model_copy(update={"id": "m" + _clock.new_id()})
        return self._append(message_node_id(message.id, self._index), EventPayload(event=message))

    def append_tool_call(self, record: ToolCallRecord) -> str:
        """Append a tool call after the leaf, which moves to it; return the node id. Raises as `append_message`."""
        key = record.stable_key()
        payload = EventPayload(event=ToolInvocation(stable_key=key, record=record))
        return self._append(tool_node_id(key, self._index, _clock.new_id), payload)

    def append_mode_event(self, event: ModeEvent) -> str:
        """Append a mode's event after the leaf, which moves to it; return the node id. Raises as `append_message`."""
        return self._append(f"mode:{_clock.new_id()}", EventPayload(event=event))

    def append_plugin(self, plugin_type: str, body: Any) -> str:
        """Append a plugin's record after the leaf, as `append_message`; return the node id."""
        return self._append(f"plugin:{_clock.new_id()}", PluginPayload(plugin_type=plugin_type, body=body))

    @overload
    def append_session_nodes(
        self, items: Iterable[SessionItem], *, requires_ancestor_node_id: None = None
    ) -> AppendedNodes: ...
    @overload
    def append_session_nodes(
        self, items: Iterable[SessionItem], *, requires_ancestor_node_id: str | None
    ) -> AppendedNodes | StaleBranch: ...
    def append_session_nodes(
        self, items: Iterable[SessionItem], *, requires_ancestor_node_id: str | None = None
    ) -> AppendedNodes | StaleBranch:
        """Append messages, mode events and plugin records in order, if the conversation is still where it should be.

        Args:
            items: What to append.
            requires_ancestor_node_id: A node that must be on the active path, None for no requirement.

        Returns:
            The new nodes; or `StaleBranch`, and nothing was changed: the required node is not on the active path.

        Raises:
            InvalidStateError: As `append_message` and `active_path_nodes`.
        """
        if requires_ancestor_node_id is not None and not self.active_path_contains(requires_ancestor_node_id):
            return StaleBranch(self._leaf_node_id)
        node_ids = tuple(self._append_item(item) for item in tuple(items))
        return AppendedNodes(node_ids, self._leaf_node_id)

    def _append_item(self, item: SessionItem) -> str:
        if isinstance(item, Message):
            return self.append_message(item)
        if isinstance(item, ModeEvent):
            return self.append_mode_event(item)
        return self.append_plugin(item.plugin_type, item.body)

    def append_active_read_delta(self, messages: Sequence[Message], tool_calls: Sequence[ToolCallRecord]) -> list[str]:
        """Append what the active path does not show yet; return the new node ids.

        Messages are known by id, tool calls by stable key and content: a known call with another output is appended
        again. Transient messages are left out.

        Raises:
            InvalidStateError: As `append_message` and `active_path_nodes`.
        """
        new_messages = self._path().unseen_messages(messages)
        new_calls = self._path().unseen_tool_calls(tool_calls)
        return [self.append_message(message) for message in new_messages] + [
            self.append_tool_call(record) for record in new_calls
        ]

    def append_active_conversation_messages(self, messages: Sequence[Message]) -> list[str]:
        """Append all messages that are not transient, known or not; return the new node ids.

        A read model still shows only the first of each message id. Raises as `append_message`.
        """
        return [self.append_message(message) for message in messages if not message.is_transient()]

    def extend_active_path(self, nodes: Iterable[SessionNodeRecord]) -> None:
        """Add nodes as they are and move the leaf to the last of them. Nothing is checked."""
        for node in nodes:
            self.push_node_record(node)
            self._leaf_node_id = node.node_id

    def _append(self, node_id: str, payload: EventPayload | PluginPayload) -> str:
        parent = self._leaf_node_id
        if parent is not None and self.find_node(parent) is None:
            raise InvalidStateError(f"leaf {parent!r} is not in the graph; call heal_orphaned_leaf before appending")
        self.push_node_record(
            SessionNodeRecord(node_id=node_id, parent_node_id=parent, timestamp=rfc3339(_clock.now()), payload=payload)
        )
        self._leaf_node_id = node_id
        return node_id

    def replace_active_read_state(self, messages: Sequence[Message], tool_calls: Sequence[ToolCallRecord]) -> None:
        """Make the active path show exactly these messages and tool calls.

        The longest matching start of the path is kept, with the records of modes and plugins in it; the rest is
        appended as a new branch. Nothing is deleted. Without any message the tool calls are dropped.

        Raises:
            InvalidStateError: As `active_path_nodes`.
        """
        leaf, rest = plan_replacement(self._path().nodes, wanted_items(messages, tool_calls))
        self._leaf_node_id = leaf
        for item in rest:
            if isinstance(item, Message):
                self.append_message(item)
            else:
                self.append_tool_call(item)

    def replace_active_tool_calls(self, tool_calls: Sequence[ToolCallRecord]) -> None:
        """Make the active path show its present messages with exactly these tool calls; as the method above."""
        self.replace_active_read_state(self.messages(), tool_calls)

    def branch_to(self, node_id: str | None) -> None:
        """Move the leaf to a node of any branch, or before the first one.

        Raises:
            InvalidStateError: There is no such node, or it is tombstoned; the leaf stays.
        """
        if node_id is not None:
            self._check_visible(node_id, "branch to one that is")
        self._leaf_node_id = node_id

    def _check_visible(self, node_id: str, remedy: str) -> None:
        if self.find_node(node_id) is None:
            known = "tombstoned" if node_id in self._index else "not in the graph"
            raise InvalidStateError(f"node {node_id!r} is {known}; {remedy}")

    def heal_orphaned_leaf(self, lost_ancestors: Iterable[str] = ()) -> LeafHealing:
        """Give the graph a leaf again when the present one is not in it.

        It becomes the nearest surviving ancestor of the lost leaf, as far as its ancestry is known (nodes removed or
        tombstoned here, then `lost_ancestors`), else the newest message of any branch, else None. A leaf of None is
        sound; a tombstoned one is lost, and no tombstoned node takes its place.

        Args:
            lost_ancestors: Ids of the lost leaf's ancestors from elsewhere, nearest first.

        Returns:
            What was done and why; true if the leaf moved.
        """
        lost = self._leaf_node_id
        if lost is None or self.find_node(lost) is not None:
            return LeafHealing(rule="sound", leaf_node_id=lost)
        ancestor = self._surviving_ancestor(lost, lost_ancestors)
        newest = next((node.node_id for node in reversed(self.visible_nodes) if node.message is not None), None)
        self._leaf_node_id = newest if ancestor is None else ancestor
        return LeafHealing(
            rule="ancestor" if ancestor is not None else "empty" if newest is None else "newest_message",
            lost_leaf_node_id=lost,
            leaf_node_id=self._leaf_node_id,
        )

    def _surviving_ancestor(self, lost: str, lost_ancestors: Iterable[str]) -> str | None:
        passed: set[str] = set()
        current: str | None = lost
        while current is not None and current not in passed:
            if self.find_node(current) is not None:
                return current
            passed.add(current)
            current = self._lost_parent(current)
        return next((node_id for node_id in lost_ancestors if self.find_node(node_id) is not None), None)

    def _lost_parent(self, node_id: str) -> str | None:
        position = self._index.get(node_id)
        return self._parents_of_removed.get(node_id) if position is None else self._nodes[position].parent_node_id

    def tombstone_nodes(self, node_ids: Iterable[str]) -> int:
        """Hide nodes from every read until `vacuum` removes them; see `NodeTable.tombstone_nodes`."""
        hidden = super().tombstone_nodes(node_ids)
        known_leaf = self._active.leaf_node_id  # the path may be that of an earlier leaf, which is hidden now
        if known_leaf is not None and self.find_node(known_leaf) is None:
            self._active = ActivePath()
        return hidden

    def remove_nodes(self, node_ids: Iterable[str]) -> int:
        """Remove nodes that no remaining node descends from; see `NodeTable.remove_nodes`."""
        removed = super().remove_nodes(frozenset(node_ids))
        if removed:
            self._active = ActivePath()
        return removed

    def to_plain(self) -> dict[str, Any]:
        """Return nodes, leaf and tombstones as plain data, without the commit bookkeeping."""
        plain: dict[str, Any] = {"nodes": nodes_to_plain(self._nodes)}
        if self._leaf_node_id is not None:
            plain["leaf_node_id"] = self._leaf_node_id
        if self._tombstones.ids:
            plain["tombstoned_node_ids"] = list(self.tombstoned_node_ids)
        return plain

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        wire = Annotated[_GraphWire, WrapValidator(cls._from_wire), PlainSerializer(cls.to_plain)]
        return handler.generate_schema(wire)

    @classmethod
    def _from_wire(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> SessionGraph:
        if isinstance(value, SessionGraph):
            return value
        wire = handler(value)
        graph = cls()
        graph.extend_node_records(wire.nodes)
        graph.set_leaf_node_id(wire.leaf_node_id)
        graph._load_tombstones(wire.tombstoned_node_ids)
        return graph


def _graph_of(path: ActivePath) -> SessionGraph:
    graph = SessionGraph()
    graph.extend_active_path(path.nodes)
    return graph
