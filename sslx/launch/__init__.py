"""Launchers: turn the description of a job into the commands that run it.

A launcher is a frozen dataclass that describes where the job runs. Its methods
return commands. `commands` is the only file that starts programs, so
`DRY_RUN=1` can show what any launcher would do. The launchers import only the
standard library, so they work on a machine without jax.
"""
