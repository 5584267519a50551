"""Seeds that once found something wrong, in the code or in a check. They are run for ever."""

from __future__ import annotations

from collections.abc import Mapping

FORMER: Mapping[int, str] = {
    26: "a process that was started again gave a temporary file the name of one that a power cut had left",
    296: "a commit that was applied and then deleted with its session was taken for refused",
    2142: "a commit that retention had dropped before it was repeated was taken for refused",
    9847: "a write that a full disk had refused was delivered again when there was room",
    41304: "a copy named a pack in the family of its parent's copy, which was deleted between two attempts",
    472636960: "a commit whose host ended while it uploaded ahead was not noted as stored",
    639880882: "a title that was seen to have landed only after a later one was taken to have that one's version",
}
