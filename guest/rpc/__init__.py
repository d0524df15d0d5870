"""Calls between services: what a method, a channel and a table of routes are; transports."""
