"""What joins zapq to frameworks: each module needs the extra of its name."""
