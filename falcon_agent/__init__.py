"""A push agent that measures containers and delivers the numbers to an Open-Falcon transfer."""

__version__ = "0.1.0"
