"""How close the pipeline comes to its ceiling, beside lock-step schedules."""
