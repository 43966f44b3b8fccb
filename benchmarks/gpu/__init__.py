"""All that a GPU alone can show, in one script of some minutes; and that script without one."""
