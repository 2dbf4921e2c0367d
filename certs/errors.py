"""Owns the errors of this package; each one's text is a sentence for people that says what to do next."""


class CertsError(Exception):
    """Certificates could not be made, found, loaded or accepted."""


class ContextError(CertsError):
    """A TLS context could not be made of the files in a directory."""


class ArgumentsError(CertsError):
    """A command was asked for what makes no sense, whatever is on the disk."""
