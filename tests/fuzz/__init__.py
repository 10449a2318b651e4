"""Fuzzers: each file of `targets/` hands bytes of a stranger to one parser and says what must hold then."""
