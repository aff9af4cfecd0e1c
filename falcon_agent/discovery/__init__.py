"""Who is running: a list of containers that stays current, from Docker or from the cgroup tree alone."""
