"""Tests of receiver.relay."""
