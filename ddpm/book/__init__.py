"""Drawing for the book; nothing else in the package imports it."""
