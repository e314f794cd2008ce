"""The embedded log: files, locks and wake-ups of one directory. Standard library only; knows nothing of mqsdk."""
