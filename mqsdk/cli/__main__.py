"""`python -m mqsdk.cli`: the command line without its console script; children of `run --processes` start so."""

from mqsdk.cli.main import main

main()
