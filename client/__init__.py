"""The client library, blocking and Trio over one sans-IO core, and the command line."""
