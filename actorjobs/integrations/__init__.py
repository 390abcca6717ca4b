"""Runtimes in web applications: one module a framework, imported by name, each with an extra of the same name."""
