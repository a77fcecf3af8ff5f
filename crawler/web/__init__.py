"""The web's own rules, pure: no clock, no socket, no await."""
