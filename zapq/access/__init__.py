"""Who may do what: tokens and certificates, the roles they carry, and the one file that says so."""
