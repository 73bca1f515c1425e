"""What people see: events, records, questions and errors as text."""
