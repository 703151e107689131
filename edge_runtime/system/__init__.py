"""What the operating system offers: the state database, identity, systemd, durable files."""
