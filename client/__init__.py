"""The client library: `client.blocking` and `client.trio_client`, over one sans-IO core, and the command line."""
