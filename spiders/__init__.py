"""Spiders: the bundled examples, and the place for your own, one class per file or more.

Every module here is found by `crawler list`; `crawler run NAME` runs a spider by its name.
"""
