"""Fuzz tests: random input for every parser. Hypothesis generates it in every test run; `make fuzz` also runs atheris,
for as long as you choose.

A target is a function that takes bytes and fails if a guarantee is broken. `targets` lists all targets. Every run tries
the inputs in `corpus/`; `strategies` and `atheris_run` generate others.
"""
