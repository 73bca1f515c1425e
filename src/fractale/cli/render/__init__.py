"""The text that users see: events, records, questions and errors."""
