"""Tokens and certificates, the roles they carry, and the one file that lists them."""
