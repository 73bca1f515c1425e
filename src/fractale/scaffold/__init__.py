"""Start a project, and add to one: ``fractale init`` and ``fractale new``.

- `project` writes the files of a new project, and records its first run.
- `parts` adds a step, a tool or an agent to files that exist.
- `editing` adds an item to a list in a YAML file, and keeps the rest of the file as it is.
- `templates/` has the files of a new project.
"""
