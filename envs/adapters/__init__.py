"""Our environments for other libraries' trainers, and theirs for ours; import what you need.

`gymnax` and `gymnasium` lead out, `gymnax`, `xland` and `brax` lead in. Each module needs the
package it is named for, and nothing else in `envs` imports one of them.

An environment that was led in is an `envs.Environment`, and no `envs.SolvedEnvironment`: it has no
oracle.
"""
