"""Every kind of fault in the real main job, and the state it ends with."""
