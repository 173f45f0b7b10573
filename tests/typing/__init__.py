"""What type checkers say of the public names; nothing here is run."""
