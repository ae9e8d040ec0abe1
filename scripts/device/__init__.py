"""The parts of check_device.py."""
