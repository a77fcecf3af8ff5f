"""Tests: real sockets on loopback, real SQLite files, real processes."""
