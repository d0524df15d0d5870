"""The repository's own tools: set-up, checks, tests, checklist, generated code."""
