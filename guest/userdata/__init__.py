"""Cloud user data and init data at boot: the command `process-user-data`."""
