"""Delivering records to an Open-Falcon transfer: the contract, batches, the queue, the client, the sender."""
