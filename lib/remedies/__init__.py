"""What closes the gap: remedies for classifiers that were trained on synthetic images."""
