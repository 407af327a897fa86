"""From text to structure: finds the answer in a response and takes it apart."""
