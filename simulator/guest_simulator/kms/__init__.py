"""Key management services that check every signature themselves."""
