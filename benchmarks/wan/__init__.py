"""A wide-area link on loopback, for the systems that are compared over one."""
