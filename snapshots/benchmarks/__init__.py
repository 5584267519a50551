"""What this software costs: workloads, and measures that run them. `snapshots bench` is their command.

Rules:
1. Equal seeds give equal work. Requests, rounds and modules are equal in every run; bytes but for what random ids
   compress to; what is timed belongs to the machine.
2. CPU is that of the process with all its threads, without that of making the work up.
3. A measure works in a place of its own, empty at first and removed at the end.

    from snapshots.benchmarks.measures import MEASURES, Settings, measured
    measured("agent-turns", Settings(turns=50))
"""
