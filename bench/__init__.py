"""What a copy costs: `python -m bench`, inside `scripts/isolated`."""
