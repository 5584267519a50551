"""Who listens to operations: logs (`snapshots.telemetry.logs`) and OpenTelemetry (`snapshots.telemetry.opentelemetry`).

Both may be on at once, for all repositories of the process; neither is unless somebody calls for it.
"""
