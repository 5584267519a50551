"""What an operator needs besides the software: pages, of which OPERATIONS.md is the first, a template, and programs.

Programs, each run as `python -m infra.NAME`:

    local_s3      a local S3 until Ctrl-C
    probes        what a probe says of five servers, as PROVIDERS.md has it
    permissions   who may do what under template.yaml, as PERMISSIONS.md has it
    costs         what it costs, as COSTS.md has it, and an estimate of a month
    scale         how far it goes, as SCALE.md has it
    drill         how long backup and restore take, as RECOVERY.md has it
    error_pages   the heads of errors/*.md, made from the error classes
"""
