"""The server: runs jobs for remote clients, each in its own cgroup (see ARCHITECTURE.md)."""
