"""The words that people see of runs, questions and errors, as lines of text."""
