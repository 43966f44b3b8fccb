"""How the pipeline scales by the timed simulator, and how far that can be trusted."""
