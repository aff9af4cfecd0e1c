"""Questions to the kernel over AF_NETLINK sockets (netlink(7), RFC 3549), with the standard library only."""
