"""Transcripts become sessions and come back equal, without a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.adapters.transcripts import TranscriptSession, apply_turn, check_continues, read_transcripts, rebuild
from snapshots.adapters.transcripts.chat import to_chat, to_message
from snapshots.adapters.transcripts.swe_agent import swe_agent_session
from snapshots.adapters.transcripts.tau_bench import tau_bench_sessions
from snapshots.errors import InvalidInputError, InvalidStateError
from snapshots.state import Message, PersistedSessionState, TokenUsage
from snapshots.state.values import json_text
from tests.data import PACKED, SESSION_COUNT, documents, unpack

SAMPLES = Path(__file__).parents[2] / "snapshots" / "samples"


def applied(session: TranscriptSession, turns: int | None = None) -> PersistedSessionState:
    state = PersistedSessionState(session_id=session.session_id)
    for index in range(len(session.turns) if turns is None else turns):
        apply_turn(state, session, index)
    return state


def tau(*chat: dict[str, Any]) -> TranscriptSession:
    (session,) = tau_bench_sessions([{"task_id": 1, "trial": 0, "traj": list(chat)}], source="t.json", stem="t")
    return session


def traj(history: list[dict[str, Any]], steps: list[dict[str, Any]], **rest: Any) -> TranscriptSession:
    document = {"history": history, "trajectory": steps, **rest}
    return swe_agent_session(document, source="t.traj", session_id="t")


def step(number: int) -> dict[str, Any]:
    return {"action": f"run {number}", "observation": f"seen {number}", "state": {"dir": "/"}}


def said(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


def same(one: Any, other: Any) -> bool:
    return json_text(one) == json_text(other)


@pytest.mark.parametrize("packed", PACKED, ids=lambda packed: packed.stem)
def test_every_document_comes_back_as_it_was(packed: Path, tmp_path: Path) -> None:
    path = unpack(packed, tmp_path)
    for session, document in zip(read_transcripts(path), documents(path), strict=True):
        assert same(session.document, document)
        state = PersistedSessionState.model_validate_json(applied(session).model_dump_json())
        assert same(rebuild(state), document)


@pytest.mark.parametrize("packed", PACKED, ids=lambda packed: packed.stem)
def test_after_some_turns_the_document_is_there_as_far_as_it_goes(packed: Path, tmp_path: Path) -> None:
    for session in read_transcripts(unpack(packed, tmp_path))[:5]:
        state = PersistedSessionState(session_id=session.session_id)
        for index in range(len(session.turns)):
            apply_turn(state, session, index)
            assert same(rebuild(state), session.document_until(index + 1))


def test_all_sessions_are_there_and_have_ids_of_their_own(tmp_path: Path) -> None:
    sessions = [session for packed in PACKED for session in read_transcripts(unpack(packed, tmp_path))]
    assert len({session.session_id for session in sessions}) == SESSION_COUNT
    assert {session.session_id for session in sessions} >= {"airline_trials_0_1-0-0", "marshmallow-1867"}


def test_the_samples_in_the_package_are_items_of_the_test_data(tmp_path: Path) -> None:
    whole = {path.name: documents(path) for path in (unpack(packed, tmp_path) for packed in PACKED)}
    assert documents(SAMPLES / "marshmallow-1867.traj") == whole["marshmallow-1867.traj"]
    sample = documents(SAMPLES / "airline.json")
    assert len(sample) == 3
    assert all(item in whole["airline_trials_0_1.json"] for item in sample)


def test_a_turn_runs_from_a_user_message_to_the_next() -> None:
    session = tau(said("system"), said("user"), said("assistant"), said("user"), said("user"), said("assistant"))
    assert [[message["role"] for message in turn.chat] for turn in session.turns] == [
        ["system", "user", "assistant"],
        ["user"],
        ["user", "assistant"],
    ]


def test_a_run_without_messages_is_kept_too() -> None:
    session = tau()
    assert len(session.turns) == 1
    assert rebuild(applied(session)) == {"task_id": 1, "trial": 0, "traj": []}


def test_a_step_takes_the_messages_up_to_its_answer() -> None:
    history = [said("system"), said("user"), said("assistant"), said("user"), said("assistant"), said("user")]
    session = traj(history, [step(0), step(1)])
    assert [len(turn.chat) for turn in session.turns] == [3, 3]


@pytest.mark.parametrize("answers", range(6))
@pytest.mark.parametrize("steps", range(5))
def test_no_message_and_no_step_is_lost_when_counts_differ(answers: int, steps: int) -> None:
    history = [said("user"), *[said(role, str(n)) for n in range(answers) for role in ("assistant", "user")]]
    session = traj(history, [step(n) for n in range(steps)], environment="main", info={})
    assert len(session.turns) == max(1, steps)
    document = {"history": history, "trajectory": [step(n) for n in range(steps)], "environment": "main", "info": {}}
    assert rebuild(applied(session)) == document


def test_demonstrations_belong_to_the_first_turn() -> None:
    history = [said("assistant", "demo"), said("user"), said("assistant"), said("user"), said("assistant")]
    assert [len(turn.chat) for turn in traj(history, [step(0), step(1)]).turns] == [3, 2]


def test_turns_are_applied_in_order_only() -> None:
    session = tau(said("user"), said("user"))
    state = applied(session)
    before = state.copy()
    for index in (0, 1, 3):
        with pytest.raises(InvalidStateError, match="does not follow"):
            apply_turn(state, session, index)
    assert state == before
    assert state.turn_index == 2


def test_a_state_from_elsewhere_is_no_transcript() -> None:
    with pytest.raises(InvalidStateError, match="not replayed"):
        rebuild(PersistedSessionState(session_id="s"))


def test_a_state_continues_its_own_transcript_and_no_other() -> None:
    session, other = tau(said("user", "a"), said("user", "b")), tau(said("user", "x"), said("user", "b"))
    longer = tau(said("user", "a"), said("user", "b"), said("user", "c"))
    check_continues(applied(session, 1), session)
    check_continues(applied(session), longer)
    for state in (applied(other, 1), applied(longer), PersistedSessionState(session_id="t")):
        with pytest.raises(InvalidInputError, match="another session of the id 't-1-0'"):
            check_continues(state, session)


def test_only_the_active_path_is_rebuilt() -> None:
    session = tau(said("user", "a"), said("user", "b"))
    state = applied(session)
    state.session_graph.branch_to("m0")
    assert rebuild(state)["traj"] == [said("user", "a")]


CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}


def test_messages_read_like_those_of_any_session() -> None:
    answer = {"role": "tool", "tool_call_id": "c1", "name": "search", "content": "3 hits"}
    state = applied(
        tau(said("user", "go\r\n"), {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}, answer)
    )
    user, call, result = state.session_graph.messages()
    assert [(message.id, message.role) for message in (user, call, result)] == [
        ("m0", "User"),
        ("m1", "Assistant"),
        ("m2", "User"),
    ]
    assert [(part.kind, part.tool_name, part.tool_call_id) for part in call.parts] == [("ToolCall", "search", "c1")] * 2
    assert (result.parts[0].kind, result.parts[0].content, result.parts[0].tool_name) == (
        "ToolResult",
        "3 hits",
        "search",
    )
    assert all(part.response_meta is None for message in (user, call, result) for part in message.parts)
    parts = [part.id for message in (user, call, result) for part in message.parts]
    assert len(set(parts)) == len(parts)


def test_tools_seen_so_far_carry_count_and_last_result() -> None:
    def answer(text: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": "c1", "content": text}

    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    session = tau(said("user"), call, answer("one"), said("user"), said("user"), call, answer("two"))
    first, second, third = (turn.tool_state for turn in session.turns)
    assert first.tools["search"].manifest.compact_contract == {"calls": 1, "last_result": "one"}
    assert second == first
    assert third.tools["search"].manifest.compact_contract == {"calls": 2, "last_result": "two"}
    assert (first.generation, third.generation) == (2, 4)
    state = applied(session, 2)
    assert (state.tool_state_snapshot, state.tool_state_generation) == (first, 2)


def test_the_execution_state_says_where_the_run_stands() -> None:
    session = traj([said("assistant")], [step(0)], environment="main")
    assert applied(session).execution_state_snapshot == b'{"environment":"main","state":{"dir":"/"},"turn":0}'
    assert session.turns[0].tool_state.tools["run"].manifest.compact_contract == {"calls": 1, "last_result": "seen 0"}


def test_usage_is_counted_when_the_transcript_has_it_and_never_invented() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    state = applied(tau(said("user"), {**said("assistant"), "usage": usage, "model": "big"}))
    expected = TokenUsage(input_tokens=6, output_tokens=2, cached_input_tokens=4)
    assert [(row.source, row.model, row.usage) for row in state.token_ledger] == [("turn", "big", expected)]
    assert state.token_usage == expected
    run = traj([said("assistant"), said("user")], [step(0)], info={"model_stats": {"tokens_sent": 7}})
    assert applied(run).token_ledger[0].usage == TokenUsage(input_tokens=7)
    for nothing in ({"prompt_tokens": 0}, {"prompt_tokens": "7"}, {"completion_tokens": -1}, "many", None):
        assert applied(tau(said("user"), {**said("assistant"), "usage": nothing})).token_ledger == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab$.", max_size=3), inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(
    st.just(CALL)
    | st.fixed_dictionaries(
        {}, optional={"id": json_values, "type": json_values, "function": json_values, "index": json_values}
    )
    | json_values,
    max_size=3,
)
chats = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "function", "developer", "", "Tool"])},
    optional={
        "content": json_values | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": json_values})),
        "tool_calls": calls | json_values,
        "tool_call_id": json_values,
        "name": json_values,
        "message": json_values,
        "other_fields": json_values,
        "usage": json_values,
    },
)


@settings(deadline=None)
@given(chats)
def test_any_message_comes_back_as_it_was(chat: dict[str, Any]) -> None:
    message = to_message(chat, "m0")
    assert same(to_chat(message), chat)
    assert same(to_chat(Message.model_validate_json(message.model_dump_json())), chat)


@settings(deadline=None)
@given(st.lists(chats, max_size=6), st.dictionaries(st.text("xyz", max_size=2), json_values, max_size=2))
def test_any_run_comes_back_as_it_was(chat: list[dict[str, Any]], extra: dict[str, Any]) -> None:
    item = {**extra, "task_id": 1, "trial": 0, "traj": chat}
    (session,) = tau_bench_sessions([item], source="t.json", stem="t")
    state = PersistedSessionState.model_validate_json(applied(session).model_dump_json())
    assert same(rebuild(state), item)
    assert state.turn_index == len(session.turns) == max(1, sum(message["role"] == "user" for message in chat))


@settings(deadline=None)
@given(st.lists(chats, max_size=6), st.lists(st.dictionaries(st.text("xyz", max_size=2), json_values), max_size=4))
def test_any_trajectory_comes_back_as_it_was(chat: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    session = traj(chat, steps)
    state = PersistedSessionState.model_validate_json(applied(session).model_dump_json())
    assert same(rebuild(state), {"history": chat, "trajectory": steps})


def test_a_message_of_another_origin_becomes_what_its_parts_say() -> None:
    assert to_chat(Message(id="m9", role="Assistant")) == {"role": "assistant", "content": None}
