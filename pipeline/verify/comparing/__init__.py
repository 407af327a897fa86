"""From two structures to a verdict: exact, by value, by algebra, and last symbolically."""
