"""The demonstration: a bookshop on loopback and the spider that crawls it."""
