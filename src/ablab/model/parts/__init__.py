"""What levers of the model are made of."""
