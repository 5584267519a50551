"""The project's own code under every order of requests, within bounds."""
