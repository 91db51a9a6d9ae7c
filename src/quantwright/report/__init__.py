"""What a run did, as a record and for people: JSON and terminal. No torch."""
