"""Bridges between sessions and what other software keeps of them, one module or package per kind."""
