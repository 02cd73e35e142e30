"""Launchers: from a description of a job to the commands that run it.

A launcher is a frozen dataclass that says where and what; its methods return
commands and run nothing. `commands` is the only file that starts a program, so
`DRY_RUN=1` shows what any launcher would do. Only the standard library is
imported: a launcher works on a machine without jax.
"""
