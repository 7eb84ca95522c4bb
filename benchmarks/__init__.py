"""What this service does in a second, beside what others do: `make bench`."""
