"""What the service is compared with: what a good team would write for the same task, and the ceiling of a server."""
