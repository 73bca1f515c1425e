"""Runs as pages: plain data, templates, and one HTML file that needs no network.

`page.run_page` makes a `RunPage` from a run's history. The templates print it, in a file
(`write.report`) and live in `fractale.web`. Every text of a `RunPage` has its control characters
escaped, and the templates escape it again for HTML: nothing that a tool, a model or a plan said
becomes markup.
"""
