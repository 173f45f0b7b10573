"""What users might pick instead of zapq, small enough to read."""
