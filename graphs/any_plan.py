"""Any plan: its path or its text is in the assistant's context, or in a run's input."""

from fractale.studio import any_plan

plan = any_plan()
