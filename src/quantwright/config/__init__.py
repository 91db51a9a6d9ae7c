"""The vocabulary of what can be asked: QuantSpec, QuantConfig, and the reading of files with line numbers. No torch."""
