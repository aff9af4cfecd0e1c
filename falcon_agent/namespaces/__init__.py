"""Going into a container's namespaces, and out again."""
