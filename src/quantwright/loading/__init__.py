"""MODEL and DATA as the command line names them. ``reference`` looks without importing; the rest needs torch."""
