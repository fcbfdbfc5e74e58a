"""Small trained weights, a card each."""
