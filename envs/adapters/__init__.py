"""Our environments for other libraries' trainers, and theirs for ours; import what you need.

`gymnax` and `gymnasium` export our environments; `gymnax`, `xland` and `brax` import theirs. Each
module needs the package it is named for, and nothing else in `envs` imports these modules.

An imported environment is an `envs.Environment` but has no oracle, so it is not an
`envs.SolvedEnvironment`.
"""
