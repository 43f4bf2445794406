"""What a profile would make, what it would cost, and what it lacks: `python -m lib.plan --profile world`."""
