"""What is said to Open-Falcon's API: the alert rules, and the screens that show the numbers."""
