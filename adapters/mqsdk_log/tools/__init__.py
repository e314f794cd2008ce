"""`mqsdk log`: looking at the files of a log, checking and repairing them. Data for the command line, which draws it.

`survey`, `progress` and `walk` read without a lock and change nothing. `looking`, `dumping`, `verify`, `repair` (with `mending`) and
`reindex` are the tools; `toolbox` says what they take.
"""
