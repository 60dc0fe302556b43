"""Other tools on the same data: programs that print one JSON line, run by an interpreter that has their packages.

They import nothing of this project, so that the interpreter needs only what the extra ``peers`` names.
"""
