"""The benchmark of recovery: systems whose law is known, what came back, and tables of it.

A case is one module and one entry in `cases.py`.
"""
