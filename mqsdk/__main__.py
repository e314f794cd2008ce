"""`python -m mqsdk`: the command line without its console script."""

from mqsdk.cli.main import main

main()
