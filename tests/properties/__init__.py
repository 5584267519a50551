"""Sequences of operations that hypothesis makes up, against a model in plain dictionaries."""
