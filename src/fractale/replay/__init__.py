"""A recorded run again: the same graph, with recorded answers in place of the outside."""
