"""A job on several hosts: network namespaces of this machine in their place."""
