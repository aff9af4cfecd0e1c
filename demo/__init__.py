"""`make demo`: the main job on this host, from containers to records at a transfer."""
