"""Domain apps; they never import each other."""
