"""What was decided: points, decisions with reasons, and the one place that infers anything (resolve). No torch."""
