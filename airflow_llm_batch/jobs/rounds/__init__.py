"""What is asked again, how, and of whom."""
