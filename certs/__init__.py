"""Certificates, the roles they carry, and the TLS contexts made of them (no module is imported here)."""
