"""Pure search: given candidates and score functions, choose. Knows no file format."""
