"""What strangers may send, made up at random: by Hypothesis in every run of the tests, and with atheris for as
long as one likes (`make fuzz`).

A target is one function that takes bytes and fails if a promise is broken. `targets` names them all; the inputs
in `corpus/` are tried in every run; `strategies` and `atheris_run` make up others.
"""
