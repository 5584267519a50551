"""A host of a realtime session, in a process of its own: it sends frames and says so, until it is killed.

Every line on stdout is JSON: first the restart count, then the id of each frame that was reported as sent.

    python -m tests.integration.realtime_host file:store s1 ws://127.0.0.1:1234 connect|resume first count
"""

from __future__ import annotations

import json
import sys

from snapshots import SnapshotRepository
from snapshots.realtime import RealtimeController
from tests.integration.realtime_provider import WebsocketAdapter
from tests.snapshots.realtime.bench import out, sidecar


def main(url: str, session_id: str, provider_url: str, verb: str, first: str, count: str) -> None:
    adapter = WebsocketAdapter(provider_url)
    with SnapshotRepository.open(url) as repo:
        if verb == "connect":
            controller = RealtimeController(repo, session_id, adapter, sidecar())
            controller.connect()
        else:
            controller = RealtimeController.resume(repo, session_id, adapter, sidecar())
            controller.complete_restart()
        print(json.dumps(controller.state.restart_count), flush=True)
        for number in range(int(first), int(first) + int(count)):
            controller.send(out(f"f{number}"))
            controller.receive()
            print(json.dumps(f"f{number}"), flush=True)
    adapter.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
