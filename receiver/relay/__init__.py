"""Delivers what happened to the team's own services, and notifies people."""
